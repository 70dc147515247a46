package httpd

import (
	"strconv"

	"github.com/quorate-db/quorate/kv"
)

// multiQuery is the body of POST /v1/query.
type multiQuery struct {
	keys   [][]byte
	ranges []rangeQuery
	read   kv.ReadOptions
}

// rangeQuery is one of its ranges.
type rangeQuery struct {
	req    kv.ScanRequest
	cursor string
}

// parseQuery reads the body of POST /v1/query.
func parseQuery(body []byte) (*multiQuery, error) {
	r := &reader{data: body}
	q := &multiQuery{}
	var words readWords
	word := func(text *string, given *bool) { *text, *given = string(r.str()), true }
	getNames := fields{"key", "key_b64"}
	rangeNames := fields{"prefix", "prefix_b64", "start", "start_b64", "end", "end_b64", "delimiter", "delimiter_b64",
		"limit", "reverse", "keys_only", "cursor"}
	r.object(fields{"gets", "ranges", "consistency", "max_staleness", "at", "min_version"}, func(i int) {
		switch i {
		case 0:
			r.array(kv.OpsMax, func(int) { q.keys = append(q.keys, r.getKey(getNames)) })
		case 1:
			r.array(kv.QueryRangesMax, func(int) { q.ranges = append(q.ranges, r.rangeQuery(rangeNames)) })
		case 2:
			word(&words.consistency, &words.hasConsistency)
		case 3:
			word(&words.maxStaleness, &words.hasMaxStaleness)
		case 4:
			word(&words.at, &words.hasAt)
		case 5:
			word(&words.minVersion, &words.hasMinVersion)
		}
	})
	if err := r.end(); err != nil {
		return nil, err
	}
	if len(q.keys)+len(q.ranges) == 0 {
		return nil, invalid("the query is empty")
	}
	var err error
	q.read, err = words.options()
	return q, err
}

func (r *reader) getKey(names fields) (key []byte) {
	seen := r.object(names, func(i int) {
		if i == 0 {
			key = r.key(r.str())
		} else {
			key = r.key(r.base64())
		}
	})
	if seen != 1 && seen != 2 {
		r.fail("want either key or key_b64")
	}
	return key
}

func (r *reader) rangeQuery(names fields) (q rangeQuery) {
	var w rangeWords
	part := func(dst *[]byte, given *bool, b64 bool) {
		if *given {
			r.fail("given both as text and as base64")
		}
		*given = true
		if b64 {
			*dst = r.keyPart(r.base64())
		} else {
			*dst = r.keyPart(r.str())
		}
	}
	var limit int
	var reverse, keysOnly, hasCursor bool
	r.object(names, func(i int) {
		switch i {
		case 0, 1:
			part(&w.prefix, &w.hasPrefix, i == 1)
		case 2, 3:
			part(&w.start, &w.hasStart, i == 3)
		case 4, 5:
			part(&w.end, &w.hasEnd, i == 5)
		case 6, 7:
			part(&w.delimiter, &w.hasDelimiter, i == 7)
		case 8:
			limit = r.count(kv.ScanItemsMax)
		case 9:
			reverse = r.boolean()
		case 10:
			keysOnly = r.boolean()
		case 11:
			q.cursor, hasCursor = string(r.str()), true
		}
	})
	if r.err != nil {
		return q
	}
	req, err := w.scanRequest()
	if err != nil {
		r.fail(err.Error())
	}
	if hasCursor && q.cursor == "" {
		r.fail("cursor: damaged")
	}
	req.Limit, req.Reverse, req.KeysOnly = limit, reverse, keysOnly
	q.req = req
	return q
}

// runQuery serves POST /v1/query. Each get and each range is consistent by
// itself; together they are not one view until there are transactions over shards.
func (s *Server) runQuery(x *exchange) error {
	x.readOnly = true
	if err := x.plain(); err != nil {
		return err
	}
	body, _, err := x.jsonBody(false)
	if err != nil {
		return err
	}
	q, err := parseQuery(body)
	if err != nil {
		return err
	}
	// Cursors are bound to the version that the query reads at, so they are
	// looked at when all of the body is known, and before anything is read.
	pages := make([]kv.ScanRequest, len(q.ranges))
	for i := range q.ranges {
		rq := &q.ranges[i]
		rq.req.Read = q.read
		pages[i] = rq.req
		pages[i].LimitBytes = kv.ScanBytesMax / len(pages)
		if rq.cursor != "" {
			if err := resume(&pages[i], rq.cursor); err != nil {
				return err
			}
		}
	}
	var served []kv.Served
	b := append(x.buf[:0], `{"gets":[`...)
	if b, served, err = s.appendGets(x, b, q, served); err != nil {
		return err
	}
	b = append(b, `],"ranges":[`...)
	for i := range pages {
		page, err := x.scanPage(pages[i], int64(pages[i].LimitBytes))
		if err != nil {
			return err
		}
		next := ""
		if page.More {
			next = encodeCursor(&q.ranges[i].req, page.Resume)
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		b = appendPage(b, &page, pages[i].KeysOnly, next)
		b = append(b, '}')
		served = append(served, page.Served...)
	}
	x.servedBy(served, q.read.Consistency)
	x.buf = append(b, ']', '}')
	x.replyJSON(x.buf)
	return nil
}

// getsFirst is how many keys are read before it is known how large values are.
const getsFirst = 16

// appendGets reads the keys and appends what was found. All of them could be as
// large as a value can be, so they are read in groups that fit what is left of
// QueryBytesMax by the average so far; small values take two groups.
func (s *Server) appendGets(x *exchange, b []byte, q *multiQuery, served []kv.Served) ([]byte, []kv.Served, error) {
	total := 0
	for done := 0; done < len(q.keys); {
		n := getsFirst
		if done > 0 {
			n = max(1, (kv.QueryBytesMax-total)/(total/done+1))
		}
		n = min(n, len(q.keys)-done)
		group := q.keys[done : done+n]
		readings, err := x.data().MultiGet(x.ctx, group, q.read)
		if err != nil {
			return b, served, err
		}
		if len(readings) != n {
			return b, served, kv.Errorf(kv.CodeInternal, kv.OutcomeNone, "%d keys were answered with %d readings", n, len(readings))
		}
		before := total
		for i := range readings {
			if done+i > 0 {
				b = append(b, ',')
			}
			item := readings[i].Item
			if item != nil {
				total += len(item.Value)
			}
			b = append(b, '{')
			b = appendFound(b, group[i], item)
			b = append(b, '}')
			served = append(served, readings[i].Served)
		}
		if err := x.takeAnswer(int64(total - before)); err != nil {
			return b, served, err
		}
		if total > kv.QueryBytesMax {
			return b, served, tooLarge("the values have more than "+strconv.Itoa(kv.QueryBytesMax)+" bytes together; ask for fewer keys", kv.QueryBytesMax)
		}
		done += n
	}
	return b, served, nil
}
