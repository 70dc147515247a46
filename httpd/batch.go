package httpd

import (
	"bytes"
	"net/http"
	"strconv"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// batchOp is one operation of a batch with its transaction in one allocation.
type batchOp struct {
	txn kvpb.Txn
	ops [1]*kvpb.Op
}

func (r *opsReader) batchOp() *kvpb.Txn {
	op, guards := r.op()
	b := &batchOp{ops: [1]*kvpb.Op{op}}
	b.txn.Then, b.txn.Guards = b.ops[:], guards
	return &b.txn
}

// parseBatch reads the body of POST /v1/batch.
func parseBatch(body []byte, ndjson bool) ([]*kvpb.Txn, error) {
	_, schema := opSchemas()
	r := &opsReader{schema: &schema}
	var txns []*kvpb.Txn
	if !ndjson {
		r.data = body
		r.object(fields{"ops"}, func(int) {
			r.array(kv.OpsMax, func(int) { txns = append(txns, r.batchOp()) })
		})
		if err := r.end(); err != nil {
			return nil, err
		}
	}
	for line := 0; ndjson && len(body) > 0; line++ {
		var text []byte
		text, body, _ = bytes.Cut(body, []byte{'\n'})
		if len(bytes.Trim(text, " \t\r")) == 0 {
			continue // blank lines are allowed, also at the end
		}
		r.data, r.pos = text, 0
		r.path = append(r.path[:0], step{name: "line"}, step{index: line})
		if len(txns) == kv.OpsMax {
			r.tooMany(kv.OpsMax)
			return nil, r.err
		}
		txns = append(txns, r.batchOp())
		if err := r.end(); err != nil {
			return nil, err
		}
	}
	if len(txns) == 0 {
		return nil, invalid("the batch is empty")
	}
	return txns, nil
}

// runBatch serves POST /v1/batch: each operation has its own outcome, and the
// response is 200 however many of them failed.
func (s *Server) runBatch(x *exchange) error {
	if err := x.query.done(); err != nil {
		return err
	}
	body, ndjson, err := x.jsonBody(true)
	if err != nil {
		return err
	}
	preferred := formatJSON
	if ndjson {
		preferred = formatNDJSON
	}
	f, err := x.accept(preferred, true)
	if err != nil {
		return err
	}
	txns, err := parseBatch(body, ndjson)
	if err != nil {
		return err
	}
	id, err := x.requestID(body)
	if err != nil {
		return err
	}
	results, err := x.data().Batch(x.ctx, txns, id)
	if err != nil {
		return err
	}
	if len(results) != len(txns) {
		return kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "a batch of %d operations was answered with %d results", len(txns), len(results))
	}
	b := x.buf[:0]
	if f == formatJSON {
		b = append(b, `{"results":[`...)
	}
	for i := range results {
		if i > 0 && f == formatJSON {
			b = append(b, ',')
		}
		b = appendBatchResult(b, txns[i].Then[0], &results[i])
		if f == formatNDJSON {
			b = append(b, '\n')
		}
	}
	if f == formatJSON {
		x.buf = append(b, ']', '}')
		x.replyJSON(x.buf)
		return nil
	}
	x.buf = b
	h := x.w.Header()
	h["Content-Type"] = headerNDJSON
	h["Cache-Control"] = headerNoStore
	h["X-Content-Type-Options"] = headerNoSniff
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	x.WriteHeader(http.StatusOK)
	x.writeBody(b)
	return nil
}

// appendBatchResult appends an operation's status and what it did, or the
// members of its problem.
func appendBatchResult(b []byte, op *kvpb.Op, r *kv.BatchResult) []byte {
	b = append(b, `{"status":`...)
	var p *problem
	if r.Err != nil {
		p = asProblem(r.Err, false)
	} else if p = conditionFailed(r.Written.Result, r.Written.Served.Shard); p == nil && len(r.Written.Result.Ops) != 1 {
		p = asProblem(kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "an operation was answered with %d results", len(r.Written.Result.Ops)), false)
	}
	if p != nil {
		b = strconv.AppendInt(b, int64(p.statusCode()), 10)
		return append(p.appendMembers(b), '}')
	}
	res := r.Written.Result.Ops[0]
	b = strconv.AppendInt(b, int64(opStatus(op, res)), 10)
	if v := r.Written.Result.Version; v != 0 {
		b = appendVersion(b, "version", v)
	}
	b = append(b, ',')
	b = appendOpResult(b, op, res)
	if r.Written.Replayed {
		b = append(b, `,"replayed":true`...)
	}
	return append(b, '}')
}

// opStatus gives the status that an operation would have had alone.
func opStatus(op *kvpb.Op, res *kvpb.OpResult) int {
	switch {
	case op.Kind == kvpb.OpKind_OP_ADD:
		return http.StatusOK
	case op.Kind == kvpb.OpKind_OP_PUT && !res.Found:
		return http.StatusCreated
	default:
		return http.StatusNoContent
	}
}
