package httpd

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Pages of a stream are small: the first line leaves soon, and little is held.
const (
	streamPageItems = 1000
	streamPageBytes = 1 << 20
	// streamWriteBytes is after how much of a page it is written.
	streamWriteBytes = 256 << 10
)

// rangeWords are the words that name a range, from a URL or from JSON. A nil
// slice was not given; keys are within their limits.
type rangeWords struct {
	prefix, start, end, delimiter []byte
	hasPrefix, hasStart, hasEnd   bool
	hasDelimiter                  bool
}

// bounds gives the range they name.
func (w *rangeWords) bounds() (start, end []byte, err error) {
	if !w.hasPrefix {
		if w.hasEnd && len(w.end) == 0 {
			return nil, nil, invalid("end: leave it out where there is no bound")
		}
		return w.start, w.end, nil
	}
	if w.hasStart || w.hasEnd {
		return nil, nil, invalid("prefix does not go with start or end")
	}
	return w.prefix, prefixEnd(w.prefix), nil
}

// scanRequest makes a scan of them.
func (w *rangeWords) scanRequest() (kv.ScanRequest, error) {
	var req kv.ScanRequest
	var err error
	if req.Start, req.End, err = w.bounds(); err != nil {
		return req, err
	}
	if w.hasDelimiter {
		if len(w.delimiter) == 0 {
			return req, invalid("delimiter: must not be empty")
		}
		req.Delimiter, req.PrefixLen = w.delimiter, len(w.prefix)
	}
	return req, nil
}

// rangeWords takes the parameters of a range.
func (q *query) rangeWords() (w rangeWords, err error) {
	encoded, err := q.encoded()
	if err != nil {
		return w, err
	}
	if w.prefix, w.hasPrefix, err = q.bytes("prefix", encoded); err != nil {
		return w, err
	}
	if w.start, w.hasStart, err = q.bytes("start", encoded); err != nil {
		return w, err
	}
	w.end, w.hasEnd, err = q.bytes("end", encoded)
	return w, err
}

// scanParams takes the parameters of a scan. limit is 0 if none was given.
func (q *query) scanParams() (req kv.ScanRequest, cursor string, err error) {
	w, err := q.rangeWords()
	if err != nil {
		return req, "", err
	}
	encoded, _ := q.encoded() // rangeWords refused a bad one
	if w.delimiter, w.hasDelimiter, err = q.bytes("delimiter", encoded); err != nil {
		return req, "", err
	}
	if req, err = w.scanRequest(); err != nil {
		return req, "", err
	}
	if text, ok := q.take("limit"); ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > kv.ScanItemsMax {
			p := invalid("limit: want a number from 1 to " + strconv.Itoa(kv.ScanItemsMax))
			p.limit = kv.ScanItemsMax
			return req, "", p
		}
		req.Limit = n
	}
	if req.Reverse, err = q.flag("reverse"); err != nil {
		return req, "", err
	}
	if req.KeysOnly, err = q.flag("keys_only"); err != nil {
		return req, "", err
	}
	if req.Read, err = q.readOptions(); err != nil {
		return req, "", err
	}
	cursor, given := q.take("cursor")
	if given && cursor == "" {
		return req, "", invalid("cursor: damaged")
	}
	return req, cursor, q.done()
}

// scan serves GET /v1/kv: one page as JSON, or the range as NDJSON.
func (s *Server) scan(x *exchange) error {
	req, cursor, err := x.query.scanParams()
	if err != nil {
		return err
	}
	f, err := x.accept(formatJSON, true)
	if err != nil {
		return err
	}
	paged := req
	if cursor != "" {
		if err := resume(&paged, cursor); err != nil {
			return err
		}
	}
	if f == formatNDJSON {
		return s.streamScan(x, &req, paged)
	}
	page, err := x.scanPage(paged, kv.ScanBytesMax)
	if err != nil {
		return err
	}
	next := ""
	if page.More {
		next = encodeCursor(&req, page.Resume)
		x.w.Header()["Link"] = []string{x.nextLink(next)}
	}
	x.servedBy(page.Served, req.Read.Consistency)
	b := append(x.buf[:0], '{')
	b = appendPage(b, &page, req.KeysOnly, next)
	x.buf = append(b, '}')
	x.replyJSON(x.buf)
	return nil
}

// scanPage reads one page of at most limit bytes, in its turn.
func (x *exchange) scanPage(req kv.ScanRequest, limit int64) (kv.Page, error) {
	allowed, err := x.awaitPage(x.ctx, limit)
	if err != nil {
		return kv.Page{}, err
	}
	held, used := x.share.answers, int64(0)
	defer func() { x.settlePace(allowed, used) }()
	req.LimitBytes = int(x.takePage(allowed))
	page, err := x.data().Scan(x.ctx, req)
	if err != nil {
		return page, err
	}
	used = bytesOf(&page)
	return page, x.settlePage(held, used)
}

// nextLink gives the Link header (RFC 8288) to the next page: the same
// parameters with another cursor.
func (x *exchange) nextLink(cursor string) string {
	v := make(url.Values, x.query.n+1)
	for i := range x.query.n {
		v.Set(x.query.names[i], x.query.values[i])
	}
	v.Set("cursor", cursor)
	return "</v1/kv?" + v.Encode() + `>; rel="next"`
}

// servedBy writes who answered a read of several shards: each shard and node
// once, and the weakest consistency.
func (x *exchange) servedBy(served []kv.Served, asked kv.Consistency) {
	if len(served) == 0 {
		return
	}
	var shards, nodes []byte
	weakest := kv.Linearizable
	seen := make(map[kv.NodeID]bool, 4)
	seenShard := make(map[kv.ShardID]bool, len(served))
	for _, sv := range served {
		if !seenShard[sv.Shard] {
			seenShard[sv.Shard] = true
			shards = strconv.AppendUint(append(shards, ", "...), uint64(sv.Shard), 10)
		}
		if !seen[sv.Node] {
			seen[sv.Node] = true
			nodes = appendNodeID(append(nodes, ", "...), sv.Node)
		}
		if sv.Consistency != "" && sv.Consistency != kv.Linearizable {
			weakest = sv.Consistency
		}
	}
	h := x.w.Header()
	h[headerShard] = []string{string(shards[2:])}
	h[headerServedBy] = []string{string(nodes[2:])}
	h[headerConsistency] = []string{string(weakest)}
	if asked != weakest {
		h[headerAsked] = []string{string(asked)}
	}
}

// streamScan writes a range as lines: an object for each item, one with
// common_prefix for each prefix. Where the range is not finished, the last line
// says so: {"next"} if the limit was reached, {"error","next"} if it broke; next
// is the cursor to go on with. The deadline applies to each page, and a client
// has as long to take one.
func (s *Server) streamScan(x *exchange, req *kv.ScanRequest, paged kv.ScanRequest) error {
	if !x.enterStream() {
		return refusal(kv.CodeOverloaded, "too many streams at this node")
	}
	defer x.leaveStream()
	// For its whole life: a page and what of it is written next.
	if err := x.countAnswer(streamPageBytes + streamWriteBytes); err != nil {
		return err
	}
	st := &stream{x: x, rc: http.NewResponseController(x.w), req: req, left: req.Limit}
	for first := true; ; first = false {
		paged.Limit = streamPageItems
		if st.left > 0 {
			paged.Limit = min(streamPageItems, st.left)
		}
		page, err := st.page(paged, first)
		if err != nil && first {
			return err
		}
		if err != nil {
			st.stop(err, paged)
			return nil
		}
		if first {
			st.start(page.Served)
		}
		if x.method == http.MethodHead || !st.write(&page) || !page.More {
			return nil
		}
		if paged.Reverse {
			paged.End = page.Resume
		} else {
			paged.Start = page.Resume
		}
		if req.Limit > 0 && st.left == 0 {
			st.stop(nil, paged)
			return nil
		}
	}
}

// stream is a scan that is being written.
type stream struct {
	x    *exchange
	rc   *http.ResponseController
	req  *kv.ScanRequest
	left int // items and prefixes before the limit
}

// page reads the next page. The first has the request's own deadline, each
// further one as long again.
func (st *stream) page(req kv.ScanRequest, first bool) (kv.Page, error) {
	x := st.x
	select {
	case <-x.s.drain:
		return kv.Page{}, &kv.Error{Code: kv.CodeDraining, Detail: "the node is going out of service; go on at another"}
	default:
	}
	ctx := x.ctx
	if !first {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(x.r.Context(), x.timeout)
		defer cancel()
	}
	allowed, err := x.awaitPage(ctx, streamPageBytes)
	if err != nil {
		return kv.Page{}, err
	}
	req.LimitBytes = int(allowed)
	page, err := x.data().Scan(ctx, req)
	x.settlePace(allowed, bytesOf(&page))
	return page, err
}

// start sends the header. The server's read timeout would look like a client
// that went away in the middle of a long stream.
func (st *stream) start(served []kv.Served) {
	x := st.x
	x.servedBy(served, st.req.Read.Consistency)
	h := x.w.Header()
	h["Content-Type"] = headerNDJSON
	h["Cache-Control"] = headerNoStore
	h["X-Content-Type-Options"] = headerNoSniff
	st.deadlines()
	x.WriteHeader(http.StatusOK)
}

func (st *stream) deadlines() {
	err := st.rc.SetReadDeadline(time.Time{})
	if err == nil {
		err = st.rc.SetWriteDeadline(time.Now().Add(st.x.timeout))
	}
	if err != nil {
		st.x.s.log.Debug("stream without deadlines", "error", err)
	}
}

// write writes a page and tells whether the client is still there.
func (st *stream) write(page *kv.Page) bool {
	x := st.x
	b := x.buf[:0]
	// Items and prefixes are one sequence, told apart in two lists: merge them.
	items, prefixes := page.Items, page.CommonPrefixes
	for len(items) > 0 || len(prefixes) > 0 {
		if len(prefixes) == 0 || (len(items) > 0 && (string(items[0].Key) < string(prefixes[0])) != st.req.Reverse) {
			b = appendItem(b, items[0], st.req.KeysOnly)
			items = items[1:]
		} else {
			b = append(b, '{')
			b = appendBytes(b, "common_prefix", prefixes[0])
			b = append(b, '}')
			prefixes = prefixes[1:]
		}
		b = append(b, '\n')
		if st.left > 0 {
			st.left--
		}
		if len(b) >= streamWriteBytes {
			if x.buf = b; !st.flush() {
				return false
			}
			b = b[:0]
		}
	}
	x.buf = b
	return st.flush()
}

func (st *stream) flush() bool {
	st.deadlines()
	if _, err := st.x.Write(st.x.buf); err != nil {
		return false
	}
	return st.rc.Flush() == nil
}

// stop writes the last line of a stream that is not finished.
func (st *stream) stop(err error, paged kv.ScanRequest) {
	x := st.x
	at := paged.Start
	if paged.Reverse {
		at = paged.End
	}
	b := append(x.buf[:0], '{')
	if err != nil {
		p := asProblem(err, true)
		x.code, x.outcome = p.err.Code, p.err.Outcome
		b = append(b, `"error":`...)
		b = p.appendJSON(b)
		b = append(b, ',')
	}
	b = append(b, `"next":`...)
	b = appendString(b, encodeCursor(st.req, at))
	x.buf = append(b, '}', '\n')
	st.flush()
}

// deleteRange serves DELETE /v1/kv. Nothing named means everything only where
// all=true says so.
func (s *Server) deleteRange(x *exchange) error {
	w, err := x.query.rangeWords()
	if err != nil {
		return err
	}
	start, end, err := w.bounds()
	if err != nil {
		return err
	}
	all, err := x.query.flag("all")
	if err != nil {
		return err
	}
	if err := x.query.done(); err != nil {
		return err
	}
	if bounded := len(start) > 0 || len(end) > 0; bounded == all {
		return invalid("name a range by prefix, start or end, or the whole keyspace by all=true")
	}
	if len(x.r.Header["If-Match"]) > 0 || len(x.r.Header["If-None-Match"]) > 0 {
		return invalid("a range delete takes no conditions")
	}
	if _, err := x.accept(formatJSON, false); err != nil {
		return err
	}
	if err := x.noBody(); err != nil {
		return err
	}
	id, err := x.requestID(nil)
	if err != nil {
		return err
	}
	n, err := x.data().DeleteRange(x.ctx, start, end, id)
	if err != nil {
		p := *asProblem(err, false)
		p.deleted = n + 1
		if e := *p.err; n > 0 && e.Outcome == kv.OutcomeNotApplied {
			// The part that failed was not applied, but a part was.
			e.Outcome = kv.OutcomeUnknown
			p.err = &e
		}
		return &p
	}
	x.w.Header()[headerDeleted] = []string{strconv.Itoa(n)}
	b := append(x.buf[:0], `{"deleted":`...)
	b = strconv.AppendInt(b, int64(n), 10)
	x.buf = append(b, '}')
	x.replyJSON(x.buf)
	return nil
}
