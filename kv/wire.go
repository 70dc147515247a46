package kv

import "github.com/quorate-db/quorate/kv/kvpb"

// ToWire gives the form of err that is sent between nodes, nil for nil. The
// cause stays behind.
func ToWire(err error) *kvpb.WireError {
	if err == nil {
		return nil
	}
	e := AsError(err)
	return &kvpb.WireError{
		Code:    string(e.Code),
		Outcome: string(e.Outcome),
		Detail:  e.Detail,
		Shard:   uint64(e.Shard),
		Leader:  uint64(e.Leader),
		Version: uint64(e.Version),
	}
}

// FromWire is the inverse of ToWire.
func FromWire(w *kvpb.WireError) error {
	if w == nil {
		return nil
	}
	return &Error{
		Code:    Code(w.Code),
		Outcome: Outcome(w.Outcome),
		Detail:  w.Detail,
		Shard:   ShardID(w.Shard),
		Leader:  NodeID(w.Leader),
		Version: Version(w.Version),
	}
}
