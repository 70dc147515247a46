package access

import "github.com/quorate-db/quorate/kv/kvpb"

// AppendTxn appends the operations of a transaction: what its guards look at, and
// both of its branches, whichever will run.
func AppendTxn(ops []Op, txn *kvpb.Txn) []Op {
	for _, g := range txn.GetGuards() {
		ops = append(ops, Op{Act: Read, Key: g.GetKey()})
	}
	ops = appendBranch(ops, txn.GetThen())
	return appendBranch(ops, txn.GetOtherwise())
}

func appendBranch(ops []Op, branch []*kvpb.Op) []Op {
	for _, o := range branch {
		ops = append(ops, opOf(o))
	}
	return ops
}

// opOf gives what one operation does. What is not known to read only, writes.
func opOf(o *kvpb.Op) Op {
	op := Op{Act: Write, Key: o.GetKey()}
	switch o.GetKind() {
	case kvpb.OpKind_OP_GET:
		op.Act = Read
	case kvpb.OpKind_OP_DELETE_RANGE:
		op.Ranged, op.End = true, o.GetEndKey()
	default:
	}
	return op
}
