package httpd

import (
	"strconv"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// parseTxn reads the body of POST /v1/txn.
func parseTxn(body []byte) (*kvpb.Txn, error) {
	schema, _ := opSchemas()
	r := &opsReader{reader: reader{data: body}, schema: &schema}
	guardNames := fields{"key", "key_b64", "version", "exists", "value", "value_b64"}
	txn := &kvpb.Txn{}
	branch := func(ops *[]*kvpb.Op) {
		r.array(kv.OpsMax, func(int) {
			op, _ := r.op()
			*ops = append(*ops, op)
		})
	}
	r.object(fields{"if", "then", "else"}, func(i int) {
		switch i {
		case 0:
			r.array(kv.OpsMax, func(int) { txn.Guards = append(txn.Guards, r.guard(guardNames)) })
		case 1:
			branch(&txn.Then)
		case 2:
			branch(&txn.Otherwise)
		}
	})
	if err := r.end(); err != nil {
		return nil, err
	}
	if len(txn.Guards)+len(txn.Then)+len(txn.Otherwise) == 0 {
		return nil, invalid("the transaction is empty")
	}
	if len(txn.Guards) == 0 && len(txn.Otherwise) > 0 {
		return nil, invalid("else: without guards it is never run")
	}
	return txn, nil
}

// runTxn serves POST /v1/txn.
func (s *Server) runTxn(x *exchange) error {
	if err := x.plain(); err != nil {
		return err
	}
	body, _, err := x.jsonBody(false)
	if err != nil {
		return err
	}
	txn, err := parseTxn(body)
	if err != nil {
		return err
	}
	id, err := x.requestID(body)
	if err != nil {
		return err
	}
	written, err := x.data().Txn(x.ctx, txn, id)
	if err != nil {
		return err
	}
	slab := headerSlab{h: x.w.Header(), buf: x.buf[:0]}
	slab.written(x, written)
	res := written.Result
	if err := conditionFailed(res, written.Served.Shard); err != nil {
		slab.set()
		err.err.Detail = "if[" + strconv.Itoa(err.guard-1) + "] is false and there is no else"
		return err
	}
	if res.Version != 0 {
		slab.plainVersion(res.Version)
	}
	slab.set()
	ran := txn.Then
	if !res.Succeeded {
		ran = txn.Otherwise
	}
	if len(ran) != len(res.Ops) {
		return kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "a transaction of %d operations was answered with %d results", len(ran), len(res.Ops))
	}
	b := append(slab.buf[:0], `{"succeeded":`...)
	b = strconv.AppendBool(b, res.Succeeded)
	if res.Version != 0 {
		b = appendVersion(b, "version", res.Version)
	}
	b = append(b, `,"results":[`...)
	for i, op := range ran {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		b = appendOpResult(b, op, res.Ops[i])
		b = append(b, '}')
	}
	x.buf = append(b, ']', '}')
	x.replyJSON(x.buf)
	return nil
}

// appendOpResult appends what an operation did as members of an object.
func appendOpResult(b []byte, op *kvpb.Op, res *kvpb.OpResult) []byte {
	switch op.Kind {
	case kvpb.OpKind_OP_PUT:
		b = append(b, `"created":`...)
		b = strconv.AppendBool(b, !res.Found)
		b = appendExpires(b, res.ExpiresMs)
	case kvpb.OpKind_OP_DELETE:
		b = append(b, `"deleted":`...)
		b = strconv.AppendUint(b, uint64(res.Deleted), 10)
	case kvpb.OpKind_OP_ADD:
		b = append(b, `"value":"`...)
		b = strconv.AppendInt(b, res.Number, 10)
		b = append(b, '"')
		b = appendExpires(b, res.ExpiresMs)
	default:
		return appendFound(b, op.Key, res.Item)
	}
	if res.PreviousVersion != 0 {
		b = appendVersion(b, "previous_version", res.PreviousVersion)
	}
	return b
}

// appendFound appends what a get found as members of an object; item is nil if
// there was nothing.
func appendFound(b []byte, key []byte, item *kvpb.Item) []byte {
	if item == nil {
		b = append(b, `"found":false,`...)
		return appendBytes(b, "key", key)
	}
	b = append(b, `"found":true,`...)
	return appendItemMembers(b, item, false)
}
