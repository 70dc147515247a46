package raftnode

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/quorate-db/quorate/kv"
)

// decodeConfiguration reads a Raft configuration of a shard. The library's own
// decoder panics on what it cannot read; this one never does, and what it accepts
// the library's accepts too.
func decodeConfiguration(shard kv.ShardID, data []byte) (c raft.Configuration, err error) {
	if len(data) == 0 || len(data) > configurationBytes {
		return c, fmt.Errorf("configuration of %d bytes", len(data))
	}
	defer func() {
		if cause := recover(); cause != nil {
			c, err = raft.Configuration{}, fmt.Errorf("configuration does not decode: %v", cause)
		}
	}()
	c = raft.DecodeConfiguration(data)
	members, err := membersOf(c)
	if err != nil {
		return raft.Configuration{}, err
	}
	return c, validateMembers(shard, members)
}

// membersOf gives a configuration in our words.
func membersOf(c raft.Configuration) ([]kv.Member, error) {
	members := make([]kv.Member, 0, len(c.Servers))
	for _, s := range c.Servers {
		id, err := kv.ParseServerID(string(s.ID))
		if err != nil {
			return nil, err
		}
		if string(s.Address) != string(s.ID) {
			return nil, fmt.Errorf("server %s: address %q", s.ID, s.Address)
		}
		if s.Suffrage != raft.Voter && s.Suffrage != raft.Nonvoter {
			return nil, fmt.Errorf("server %s: %s", s.ID, s.Suffrage)
		}
		members = append(members, kv.Member{ID: id, Voter: s.Suffrage == raft.Voter})
	}
	return members, nil
}

// configurationOf is the inverse of membersOf. A server's address is its id: the
// mesh finds nodes by theirs.
func configurationOf(members []kv.Member) raft.Configuration {
	var c raft.Configuration
	for _, m := range members {
		s := raft.Server{ID: raftID(m.ID), Address: raftAddress(m.ID), Suffrage: raft.Nonvoter}
		if m.Voter {
			s.Suffrage = raft.Voter
		}
		c.Servers = append(c.Servers, s)
	}
	return c
}

// validateMembers checks what a group's configuration must be: ids of this shard,
// no node twice, one voter at least.
func validateMembers(shard kv.ShardID, members []kv.Member) error {
	if len(members) == 0 || len(members) > configurationMax {
		return fmt.Errorf("configuration of %d members", len(members))
	}
	nodes := map[kv.NodeID]bool{}
	voters := 0
	for _, m := range members {
		if m.ID.Shard != shard || m.ID.Node == 0 || m.ID.Incarnation == 0 {
			return fmt.Errorf("configuration of shard %s has server %s", shard, m.ID)
		}
		if nodes[m.ID.Node] {
			return fmt.Errorf("configuration of shard %s has node %s twice", shard, m.ID.Node)
		}
		nodes[m.ID.Node] = true
		if m.Voter {
			voters++
		}
	}
	if voters == 0 {
		return fmt.Errorf("configuration of shard %s has no voter", shard)
	}
	return nil
}

func raftID(id kv.ServerID) raft.ServerID           { return raft.ServerID(id.String()) }
func raftAddress(id kv.ServerID) raft.ServerAddress { return raft.ServerAddress(id.String()) }

// EncodeMembers gives a configuration in the form that kv.Entry.Config and
// kv.Applied.Config have: what a machine needs that does not start from a log.
func EncodeMembers(members []kv.Member) []byte {
	return raft.EncodeConfiguration(configurationOf(members))
}

// DecodeMembers reads the configuration that a shard's machine keeps.
func DecodeMembers(shard kv.ShardID, config []byte) ([]kv.Member, error) {
	c, err := decodeConfiguration(shard, config)
	if err != nil {
		return nil, err
	}
	return membersOf(c)
}
