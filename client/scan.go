package client

import (
	"context"
	"iter"
	"net/http"
	"slices"
	"strconv"

	"github.com/quorate-db/quorate/kv"
)

// Range is a range of keys to scan: those with Prefix, or else [Start, End).
type Range struct {
	Prefix     string
	Start, End string // End "" = no bound
	Reverse    bool   // from the end down
	Limit      int    // of all items; 0 = no limit
	PageItems  int    // asked for at once; 0 = the server's default
	KeysOnly   bool
	Delimiter  string // Pages only: fold keys that contain it after the prefix
	Read       ReadOptions
}

// Page is a part of a range, in order.
type Page struct {
	Items          []Item
	CommonPrefixes []string
	Next           string // cursor of the next page; "" = this was the last
}

// Scan iterates over a range in order, fetching pages as they are needed. Each
// page is a consistent view by itself, the whole is not. An error ends the
// iteration and is its last element.
func (c *Client) Scan(ctx context.Context, r Range) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		r.Delimiter = ""
		left := r.Limit
		for cursor := ""; ; {
			page, err := c.Page(ctx, r, cursor)
			if err != nil {
				yield(Item{}, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
				if left--; left == 0 {
					return
				}
			}
			if cursor = page.Next; cursor == "" {
				return
			}
		}
	}
}

// Page fetches one page of a range: the first with an empty cursor, the next
// ones with the Next of the page before and the same range.
func (c *Client) Page(ctx context.Context, r Range, cursor string) (Page, error) {
	q := readQuery(r.Read)
	if r.Prefix != "" {
		q.add("prefix", r.Prefix)
	}
	if r.Start != "" {
		q.add("start", r.Start)
	}
	if r.End != "" {
		q.add("end", r.End)
	}
	if n := r.pageItems(); n > 0 {
		q.add("limit", strconv.Itoa(n))
	}
	if cursor != "" {
		q.add("cursor", cursor)
	}
	if r.Reverse {
		q.add("reverse", "true")
	}
	if r.KeysOnly {
		q.add("keys_only", "true")
	}
	if r.Delimiter != "" {
		q.add("delimiter", r.Delimiter)
	}
	req := request{method: http.MethodGet, target: "/v1/kv", read: true, accept: "application/json"}
	if len(q.b) > 0 {
		req.target += "?" + q.String()
	}
	if r.Read.Consistency != kv.Stale && cursor == "" && !r.Reverse {
		req.key, req.route = max(r.Prefix, r.Start), true
	}
	resp, err := c.do(ctx, &req)
	if err != nil {
		return Page{}, err
	}
	var body wirePage
	if err := decodeBody(&resp, &body); err != nil {
		return Page{}, c.garbled(&req, &resp, err)
	}
	return body.page(r.Reverse), nil
}

// pageItems is the same for all pages of a scan, as cursors are bound to it.
func (r *Range) pageItems() int {
	if r.Limit > 0 && (r.PageItems == 0 || r.Limit < r.PageItems) {
		return min(r.Limit, kv.ScanItemsMax)
	}
	return r.PageItems
}

type wirePage struct {
	Items       []wireItem `json:"items"`
	Prefixes    []string   `json:"common_prefixes"`
	PrefixesB64 [][]byte   `json:"common_prefixes_b64"`
	Next        string     `json:"next"`
}

func (w *wirePage) page(reverse bool) Page {
	p := Page{Items: itemsOf(w.Items), CommonPrefixes: w.Prefixes, Next: w.Next}
	if len(w.PrefixesB64) == 0 {
		return p
	}
	for _, b := range w.PrefixesB64 {
		p.CommonPrefixes = append(p.CommonPrefixes, string(b))
	}
	slices.Sort(p.CommonPrefixes)
	if reverse {
		slices.Reverse(p.CommonPrefixes)
	}
	return p
}

// Query is several reads in one request.
type Query struct {
	Gets   []string
	Ranges []Range // of each the first page: Limit items
	Read   ReadOptions
}

// QueryResult answers a Query, each part in the order asked.
type QueryResult struct {
	Gets   []*Item // nil where there is no such key
	Ranges []Page
}

// Query reads several keys and ranges. Each is read as by itself, not in one
// consistent view.
func (c *Client) Query(ctx context.Context, q Query) (QueryResult, error) {
	req, err := post("/v1/query", true, q.wire())
	if err != nil {
		return QueryResult{}, err
	}
	if len(q.Gets) > 0 {
		req.key, req.route = q.Gets[0], q.Read.Consistency != kv.Stale
	}
	resp, err := c.do(ctx, &req)
	if err != nil {
		return QueryResult{}, err
	}
	var body struct {
		Gets   []wireGet  `json:"gets"`
		Ranges []wirePage `json:"ranges"`
	}
	if err := decodeBody(&resp, &body); err != nil {
		return QueryResult{}, c.garbled(&req, &resp, err)
	}
	out := QueryResult{Gets: make([]*Item, len(body.Gets))}
	for i := range body.Gets {
		if g := &body.Gets[i]; g.Found {
			item := g.item()
			out.Gets[i] = &item
		}
	}
	for i := range body.Ranges {
		out.Ranges = append(out.Ranges, body.Ranges[i].page(i < len(q.Ranges) && q.Ranges[i].Reverse))
	}
	return out, nil
}

type wireRange struct {
	Prefix    *string `json:"prefix,omitempty"`
	PrefixB64 []byte  `json:"prefix_b64,omitempty"`
	Start     *string `json:"start,omitempty"`
	StartB64  []byte  `json:"start_b64,omitempty"`
	End       *string `json:"end,omitempty"`
	EndB64    []byte  `json:"end_b64,omitempty"`
	Limit     int     `json:"limit,omitempty"`
	Reverse   bool    `json:"reverse,omitempty"`
	KeysOnly  bool    `json:"keys_only,omitempty"`
	Delim     *string `json:"delimiter,omitempty"`
	DelimB64  []byte  `json:"delimiter_b64,omitempty"`
}

type wireKey struct {
	Key    *string `json:"key,omitempty"`
	KeyB64 []byte  `json:"key_b64,omitempty"`
}

type wireQuery struct {
	Gets         []wireKey      `json:"gets,omitempty"`
	Ranges       []wireRange    `json:"ranges,omitempty"`
	Consistency  kv.Consistency `json:"consistency,omitempty"`
	MaxStaleness string         `json:"max_staleness,omitempty"`
	At           string         `json:"at,omitempty"`
	MinVersion   string         `json:"min_version,omitempty"`
}

func (q *Query) wire() wireQuery {
	w := wireQuery{Consistency: q.Read.Consistency}
	if q.Read.MaxStaleness != 0 {
		w.MaxStaleness = q.Read.MaxStaleness.String()
	}
	if q.Read.At != 0 {
		w.At = q.Read.At.String()
	}
	if q.Read.MinVersion != 0 {
		w.MinVersion = q.Read.MinVersion.String()
	}
	for _, key := range q.Gets {
		k := textOf(key)
		w.Gets = append(w.Gets, wireKey{k.text, k.bytes})
	}
	for i := range q.Ranges {
		w.Ranges = append(w.Ranges, q.Ranges[i].wire())
	}
	return w
}

func (r *Range) wire() wireRange {
	w := wireRange{Limit: r.pageItems(), Reverse: r.Reverse, KeysOnly: r.KeysOnly}
	set := func(text **string, b *[]byte, s string) {
		if s != "" {
			t := textOf(s)
			*text, *b = t.text, t.bytes
		}
	}
	set(&w.Prefix, &w.PrefixB64, r.Prefix)
	set(&w.Start, &w.StartB64, r.Start)
	set(&w.End, &w.EndB64, r.End)
	set(&w.Delim, &w.DelimB64, r.Delimiter)
	return w
}

type wireGet struct {
	wireItem
	Found bool `json:"found"`
}
