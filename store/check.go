package store

import (
	"bytes"
	"fmt"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// checkCommand gives the reason why a command cannot be applied whatever the
// state is, "" if there is none, and whether it walks over ranges.
func checkCommand(c *kvpb.Command, versions uint32) (bad string, walks bool) {
	switch c.Kind {
	case kvpb.CommandKind_COMMAND_WRITE:
		return checkWrite(c, versions)
	case kvpb.CommandKind_COMMAND_SWEEP:
		return checkSweep(c, versions), true
	default:
		if isShape(c.Kind) {
			return checkShape(c, versions), false
		}
		return fmt.Sprintf("command kind %d is not known", c.Kind), false
	}
}

func checkSweep(c *kvpb.Command, versions uint32) string {
	switch {
	case c.Sweep == nil:
		return "a sweep needs arguments"
	case len(c.Txns) > 0 || c.Request != nil:
		return "a sweep has no transactions and no request id"
	case versions < 1:
		return "a sweep uses one version"
	case c.Sweep.ExpireBeforeMs < 0 || c.Sweep.RequestFloorMs < 0:
		return "a sweep's times may not be negative"
	}
	return ""
}

// commandCheck sums up the limits over one command.
type commandCheck struct {
	parts, bytes int
	walks        bool
}

func checkWrite(c *kvpb.Command, versions uint32) (bad string, walks bool) {
	if len(c.Txns) == 0 {
		return "a write needs a transaction", false
	}
	if uint64(len(c.Txns)) > uint64(versions) {
		return fmt.Sprintf("%d transactions need as many versions, not %d", len(c.Txns), versions), false
	}
	if c.Sweep != nil || c.Shape != nil {
		return "a write has no arguments of a sweep or a change of range", false
	}
	if c.Request != nil && c.Request.IssuedMs < 0 {
		return "a request id's time may not be negative", false
	}
	if bad := checkOrdinals(c); bad != "" {
		return bad, false
	}
	var sum commandCheck
	for _, t := range c.Txns {
		for _, g := range t.Guards {
			if bad := sum.guard(g); bad != "" {
				return bad, false
			}
		}
		for _, ops := range [2][]*kvpb.Op{t.Then, t.Otherwise} {
			for _, op := range ops {
				if bad := sum.op(op); bad != "" {
					return bad, false
				}
			}
		}
	}
	if sum.parts > kv.OpsMax || len(c.Txns) > kv.OpsMax {
		return fmt.Sprintf("more than %d operations and guards", kv.OpsMax), false
	}
	if sum.bytes > kv.CommandBytesMax {
		return fmt.Sprintf("more than %d bytes of keys and values", kv.CommandBytesMax), false
	}
	return "", sum.walks
}

// checkOrdinals checks what makes a write a part of a request.
func checkOrdinals(c *kvpb.Command) string {
	n := len(c.Ordinals)
	if n == 0 {
		return ""
	}
	if c.Request == nil || n != len(c.Txns) {
		return "a part needs a request id and a number for each transaction"
	}
	for i, o := range c.Ordinals {
		if i > 0 && o <= c.Ordinals[i-1] {
			return "the numbers of a part have to ascend"
		}
	}
	if c.Ordinals[n-1] >= kv.OpsMax {
		return fmt.Sprintf("a request has at most %d transactions", kv.OpsMax)
	}
	return ""
}

func (s *commandCheck) guard(g *kvpb.Guard) string {
	if g.Kind < kvpb.GuardKind_GUARD_EXISTS || g.Kind > kvpb.GuardKind_GUARD_VALUE_EQ {
		return fmt.Sprintf("guard kind %d is not known", g.Kind)
	}
	s.parts++
	s.bytes += len(g.Key) + len(g.Value) + 8*len(g.Versions)
	return checkKey(g.Key)
}

func (s *commandCheck) op(op *kvpb.Op) string {
	s.parts++
	s.bytes += len(op.Key) + len(op.Value) + len(op.EndKey)
	switch {
	case op.Kind < kvpb.OpKind_OP_PUT || op.Kind > kvpb.OpKind_OP_DELETE_RANGE:
		return fmt.Sprintf("operation kind %d is not known", op.Kind)
	case len(op.Value) > kv.ValueBytesMax:
		return fmt.Sprintf("a value is longer than %d bytes", kv.ValueBytesMax)
	case len(op.ContentType) > kv.ContentTypeBytesMax:
		return fmt.Sprintf("a content type is longer than %d bytes", kv.ContentTypeBytesMax)
	case op.TtlMs < 0 || op.TtlMs > kv.TTLMax.Milliseconds():
		return fmt.Sprintf("a time to live is not between 0 and %s", kv.TTLMax)
	case op.Kind != kvpb.OpKind_OP_DELETE_RANGE:
		return checkKey(op.Key)
	}
	s.walks = true
	// One byte more, so that "just above the longest key" is a bound too.
	if len(op.Key) > kv.KeyBytesMax+1 || len(op.EndKey) > kv.KeyBytesMax+1 {
		return fmt.Sprintf("a bound is longer than %d bytes", kv.KeyBytesMax+1)
	}
	return ""
}

func checkKey(key []byte) string {
	if len(key) < kv.KeyBytesMin || len(key) > kv.KeyBytesMax {
		return fmt.Sprintf("a key has %d bytes, not %d to %d", len(key), kv.KeyBytesMin, kv.KeyBytesMax)
	}
	return ""
}

// ownsAll reports whether everything a command names lies in the shard's range,
// and the shard is of the generation that the command asks for.
func (a *applier) ownsAll(c *kvpb.Command) bool {
	if c.Generation != 0 && c.Generation != a.st.desc.Generation {
		return false
	}
	for _, t := range c.Txns {
		for _, g := range t.Guards {
			if !a.st.owns(g.Key) {
				return false
			}
		}
		for _, ops := range [2][]*kvpb.Op{t.Then, t.Otherwise} {
			for _, op := range ops {
				if !a.st.owns(op.Key) || op.Kind == kvpb.OpKind_OP_DELETE_RANGE && !a.st.ownsEnd(op.EndKey) {
					return false
				}
			}
		}
	}
	return true
}

// ownsEnd reports whether an exclusive end is within the range; empty always is.
func (s *state) ownsEnd(end []byte) bool {
	return len(end) == 0 || len(s.desc.End) == 0 || bytes.Compare(end, s.desc.End) <= 0
}
