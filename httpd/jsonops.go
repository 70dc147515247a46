package httpd

import (
	"strconv"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// Fields of one operation, in transactions and batches.
const (
	fOp = iota
	fKey
	fKeyB64
	fValue
	fValueB64
	fTTL
	fContentType
	fDelta
	fIfMatch
	fIfAbsent
)

// opSchema says what operations a body takes and with which fields.
type opSchema struct {
	names fields
	ops   map[string]opRule
}

// opRule is one operation.
type opRule struct {
	kind     kvpb.OpKind
	needs    uint32 // fields that must be there, beside op and a key
	may      uint32 // fields that may
	hasValue bool
}

// opSchemas gives the operations of transactions and of batches. A batch has
// conditions beside the operation, because it has no guards; a get there would
// be a read through the log, so reads of many keys go to /v1/query.
func opSchemas() (txn, batch opSchema) {
	names := fields{"op", "key", "key_b64", "value", "value_b64", "ttl", "content_type", "delta", "if_match", "if_absent"}
	rules := func(also uint32) map[string]opRule {
		return map[string]opRule{
			"put":    {kind: kvpb.OpKind_OP_PUT, may: 1<<fTTL | 1<<fContentType | also, hasValue: true},
			"delete": {kind: kvpb.OpKind_OP_DELETE, may: also &^ (1 << fIfAbsent)},
			"add":    {kind: kvpb.OpKind_OP_ADD, needs: 1 << fDelta, may: 1<<fTTL | also},
		}
	}
	txn = opSchema{names: names[:fIfMatch], ops: rules(0)}
	txn.ops["get"] = opRule{kind: kvpb.OpKind_OP_GET}
	batch = opSchema{names: names, ops: rules(1<<fIfMatch | 1<<fIfAbsent)}
	return txn, batch
}

// opsReader reads operations and counts what they hold.
type opsReader struct {
	reader
	schema *opSchema
	ops    int // operations and guards so far
	bytes  int // their keys and values
}

// charge counts one more operation or guard against the limits of a command.
func (r *opsReader) charge(key, value []byte) {
	r.ops++
	r.bytes += len(key) + len(value)
	switch {
	case r.err != nil:
	case r.ops > kv.OpsMax:
		r.tooMany(kv.OpsMax)
	case r.bytes > kv.CommandBytesMax:
		r.fail("keys and values have more than " + strconv.Itoa(kv.CommandBytesMax) + " bytes together")
		r.err.err.Code, r.err.limit = kv.CodeTooLarge, kv.CommandBytesMax
	}
}

// op reads one operation and, in a batch, the guards beside it.
func (r *opsReader) op() (op *kvpb.Op, guards []*kvpb.Guard) {
	op = &kvpb.Op{}
	var name []byte
	var ifAbsent bool
	var match *kvpb.Guard
	seen := r.object(r.schema.names, func(i int) {
		switch i {
		case fOp:
			name = r.str()
		case fKey:
			op.Key = r.key(r.str())
		case fKeyB64:
			op.Key = r.key(r.base64())
		case fValue:
			op.Value = r.value(r.str())
		case fValueB64:
			op.Value = r.value(r.base64())
		case fTTL:
			op.TtlMs = r.ttl()
		case fContentType:
			op.ContentType = r.contentType()
		case fDelta:
			op.Delta = r.int64()
		case fIfMatch:
			match = r.ifMatch()
		case fIfAbsent:
			ifAbsent = r.boolean()
		}
	})
	if r.err != nil {
		return op, nil
	}
	rule, ok := r.schema.ops[string(name)]
	if !ok {
		r.fail("op: want one of " + r.schema.known() + ", not " + quoted(name))
		return op, nil
	}
	op.Kind = rule.kind
	r.check(rule, string(name), seen)
	if match != nil {
		match.Key = op.Key
		guards = append(guards, match)
	}
	if ifAbsent {
		guards = append(guards, &kvpb.Guard{Key: op.Key, Kind: kvpb.GuardKind_GUARD_ABSENT})
	}
	r.charge(op.Key, op.Value)
	return op, guards
}

func (s *opSchema) known() string {
	if _, ok := s.ops["get"]; ok {
		return "put, delete, add, get"
	}
	return "put, delete, add"
}

// check holds the fields that were there against the operation's rule.
func (r *opsReader) check(rule opRule, name string, seen uint32) {
	const keys, values = 1<<fKey | 1<<fKeyB64, 1<<fValue | 1<<fValueB64
	if k := seen & keys; k == 0 || k == keys {
		r.fail("want either key or key_b64")
	}
	if v := seen & values; rule.hasValue && (v == 0 || v == values) {
		r.fail(name + ": want either value or value_b64")
	}
	if seen&rule.needs != rule.needs {
		r.fail(name + ": a field is missing: delta")
	}
	allowed := 1<<fOp | keys | rule.needs | rule.may
	if rule.hasValue {
		allowed |= values
	}
	for i, field := range r.schema.names {
		if seen&^allowed&(1<<i) != 0 {
			r.fail(name + " takes no " + field)
		}
	}
}

func (r *opsReader) ttl() int64 {
	text := r.str()
	if r.err != nil {
		return 0
	}
	ms, err := ttlMillis(string(text))
	if err != nil {
		r.fail("want a duration like 30s, at least 1ms and at most " + kv.TTLMax.String())
	}
	return ms
}

func (r *opsReader) contentType() string {
	ct := string(r.str())
	if err := checkContentType(ct); err != nil && r.err == nil {
		r.fail("want printable ASCII of at most " + strconv.Itoa(kv.ContentTypeBytesMax) + " bytes")
	}
	return ct
}

// int64 reads a number that is written as a string, because JSON's own lose
// digits above 2^53 in many readers.
func (r *opsReader) int64() int64 {
	text := r.str()
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		r.fail("want a string with a decimal number of 64 bits")
	}
	return n
}

// ifMatch reads "*", a version, or an array of versions.
func (r *opsReader) ifMatch() *kvpb.Guard {
	g := &kvpb.Guard{Kind: kvpb.GuardKind_GUARD_VERSION_EQ}
	if r.next() == '[' {
		r.array(tagsMax, func(int) { g.Versions = append(g.Versions, uint64(r.version())) })
		if len(g.Versions) == 0 {
			r.fail("want at least one version")
		}
		return g
	}
	text := r.str()
	if string(text) == "*" {
		g.Kind = kvpb.GuardKind_GUARD_EXISTS
		return g
	}
	v, err := kv.ParseVersion(string(text))
	if err != nil {
		r.fail(`want "*", a version, or an array of versions`)
	}
	g.Versions = []uint64{uint64(v)}
	return g
}

// Fields of a guard.
const (
	gKey = iota
	gKeyB64
	gVersion
	gExists
	gValue
	gValueB64
)

// guard reads one guard of a transaction: a key and one thing that must be true
// of it.
func (r *opsReader) guard(names fields) *kvpb.Guard {
	g := &kvpb.Guard{}
	seen := r.object(names, func(i int) {
		switch i {
		case gKey:
			g.Key = r.key(r.str())
		case gKeyB64:
			g.Key = r.key(r.base64())
		case gVersion:
			g.Kind, g.Versions = kvpb.GuardKind_GUARD_VERSION_EQ, []uint64{uint64(r.version())}
		case gExists:
			g.Kind = kvpb.GuardKind_GUARD_ABSENT
			if r.boolean() {
				g.Kind = kvpb.GuardKind_GUARD_EXISTS
			}
		case gValue:
			g.Kind, g.Value = kvpb.GuardKind_GUARD_VALUE_EQ, r.value(r.str())
		case gValueB64:
			g.Kind, g.Value = kvpb.GuardKind_GUARD_VALUE_EQ, r.value(r.base64())
		}
	})
	const keys = 1<<gKey | 1<<gKeyB64
	if k := seen & keys; k == 0 || k == keys {
		r.fail("want either key or key_b64")
	}
	switch seen &^ keys {
	case 1 << gVersion, 1 << gExists, 1 << gValue, 1 << gValueB64:
	default:
		r.fail("want exactly one of version, exists, value, value_b64")
	}
	r.charge(g.Key, g.Value)
	return g
}
