package raftlog

import (
	"sync"

	"github.com/hashicorp/raft"
)

const (
	// cachedOverheadBytes is what a cached entry costs beside its data: the
	// struct, the map cell and the allocator's rounding.
	cachedOverheadBytes = 200
	// cachedShare is which part of the cache one entry may take at most: a larger
	// one would push out the tails of all other shards.
	cachedShare = 8
)

// entryCache holds the newest entries of all stores of a node, because
// replication and apply read the tail. One bound covers all of them together;
// the entry that was stored first leaves first.
type entryCache struct {
	bytesMax int64 // immutable

	mu      sync.Mutex
	bytes   int64
	entries map[cacheKey]*cachedEntry
	byAge   chain            // of all stores
	tails   map[uint64]chain // of each store; in order of index as well
}

type cacheKey struct{ store, index uint64 }

type cachedEntry struct {
	key   cacheKey
	log   raft.Log
	bytes int64
	links [2]link // in byAge, in its store's tail
}

type link struct{ prev, next *cachedEntry }

// chain is a list through the links of one kind.
type chain struct{ oldest, newest *cachedEntry }

const (
	linkAge = iota
	linkStore
)

func (c *chain) push(kind int, e *cachedEntry) {
	e.links[kind] = link{prev: c.newest}
	if c.newest != nil {
		c.newest.links[kind].next = e
	} else {
		c.oldest = e
	}
	c.newest = e
}

func (c *chain) drop(kind int, e *cachedEntry) {
	l := e.links[kind]
	if l.prev != nil {
		l.prev.links[kind].next = l.next
	} else {
		c.oldest = l.next
	}
	if l.next != nil {
		l.next.links[kind].prev = l.prev
	} else {
		c.newest = l.prev
	}
}

func newEntryCache(bytesMax int64) *entryCache {
	return &entryCache{
		bytesMax: bytesMax,
		entries:  map[cacheKey]*cachedEntry{},
		tails:    map[uint64]chain{},
	}
}

// put copies entries in that the store has just appended.
func (c *entryCache) put(store uint64, logs []*raft.Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, log := range logs {
		bytes := int64(len(log.Data)+len(log.Extensions)) + cachedOverheadBytes
		if bytes > c.bytesMax/cachedShare {
			continue
		}
		e := &cachedEntry{key: cacheKey{store, log.Index}, log: *log, bytes: bytes}
		e.log.Data = append([]byte(nil), log.Data...)
		e.log.Extensions = append([]byte(nil), log.Extensions...)
		c.entries[e.key] = e
		c.bytes += bytes
		c.byAge.push(linkAge, e)
		tail := c.tails[store]
		tail.push(linkStore, e)
		c.tails[store] = tail
	}
	for c.bytes > c.bytesMax {
		c.dropLocked(c.byAge.oldest)
	}
}

func (c *entryCache) dropLocked(e *cachedEntry) {
	delete(c.entries, e.key)
	c.bytes -= e.bytes
	c.byAge.drop(linkAge, e)
	tail := c.tails[e.key.store]
	tail.drop(linkStore, e)
	if tail.oldest == nil {
		delete(c.tails, e.key.store)
	} else {
		c.tails[e.key.store] = tail
	}
}

// get copies an entry out; its Data and Extensions are shared and must not be
// changed.
func (c *entryCache) get(store, index uint64, out *raft.Log) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[cacheKey{store, index}]
	if e == nil {
		return false
	}
	*out = e.log
	return true
}

// cut forgets the entries of a store in a run, which is a prefix or a suffix of
// what the store holds.
func (c *entryCache) cut(store uint64, removed run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.tails[store].oldest; e != nil && removed.holds(e.key.index); e = c.tails[store].oldest {
		c.dropLocked(e)
	}
	for e := c.tails[store].newest; e != nil && removed.holds(e.key.index); e = c.tails[store].newest {
		c.dropLocked(e)
	}
}

// size gives the bytes held.
func (c *entryCache) size() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}
