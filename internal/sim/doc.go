// Package sim runs whole clusters on virtual time: real stores, Raft groups,
// routers and control planes, on disks in memory that lose what was not synced, and
// on a network that drops, doubles, delays and cuts. Clients write down what they
// asked and what they were told, faults come from a seed, and at the end the
// history is checked.
//
// A run belongs into a bubble of testing/synctest:
//
//	synctest.Test(t, func(t *testing.T) {
//		result := sim.Run(sim.Config{Seed: 1})
//		...
//	})
//
// A seed chooses the faults, the clients' requests, delays and drops; goroutines
// interleave freely, so the same seed gives a similar run, not the same one.
//
// # What is checked
//
//	C1  Every group of keys is linearizable, with unknown outcomes as operations
//	    that may take effect at any later time or never (Porcupine).
//	C2  Within a shard versions are unique, follow the order of real time, and a
//	    linearizable read sees at least the largest version that was acknowledged
//	    before it began. They grow for each key, whichever shard it lies in.
//	C3  No shard has two leaders in one term.
//	C4  Replicas of a shard at the same applied index have the same digest, while the
//	    cluster runs and at its end.
//	C5  A counter ends between the additions that were acknowledged and those plus
//	    the unknown ones: nothing is lost, nothing is applied twice.
//	C6  A stale read gives what was written, from a state that held all that was
//	    acknowledged up to its bound (plus Config.StaleSlack) before it began.
//	C7  Once all is healed the cluster serves again in bounded time, all replicas
//	    reach the same index, and the map covers the key space once.
//	C8  No node has a reason to end its process but a disk that was made to fail.
//	C9  A request that was acknowledged under an id of the client's own and is asked
//	    again is answered as it was, from memory, wherever its keys have gone.
//	C10 Once all is healed every operation comes to its end and the planner to rest.
//	    Then the shards' own ranges cover the key space once, as the meta shard has
//	    them; every shard has as many replicas as asked for, on machines that are of
//	    the cluster and in different zones; and there is no other replica.
package sim
