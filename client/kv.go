package client

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// ReadOptions qualify a read; the zero value is a linearizable read of the
// current version.
type ReadOptions = kv.ReadOptions

// Item is one key as it was read. Keys are any bytes; a string holds them.
type Item struct {
	Key         string
	Value       []byte // nil if only keys were asked for
	Version     kv.Version
	ContentType string
	Expires     time.Time // zero: never
	Served      Served    // of a single Get only
}

// Served tells who answered and how.
type Served struct {
	Shard       kv.ShardID
	Node        string         // its id
	Consistency kv.Consistency // "" for writes
}

// PutOptions qualify a write. At most one of IfMatch and IfAbsent.
type PutOptions struct {
	TTL            time.Duration // 0 = the key does not expire
	IfMatch        kv.Version    // write only if this is the key's version
	IfAbsent       bool          // write only if there is no such key
	ContentType    string        // stored with the value
	IdempotencyKey string        // "" = one made for this call
}

// PutResult tells of a write that was applied.
type PutResult struct {
	Version  kv.Version
	Created  bool // there was no such key
	Replayed bool // applied by an earlier attempt or call with the same idempotency key
	Served   Served
}

// Get reads one key. A key that does not exist is an error of which IsNotFound
// is true.
func (c *Client) Get(ctx context.Context, key string, o ReadOptions) (Item, error) {
	req := request{method: http.MethodGet, read: true, key: key, route: o.Consistency != kv.Stale}
	if o == (ReadOptions{}) {
		req.target = keyTarget(key, "")
	} else {
		req.target = keyTarget(key, readQuery(o).String())
	}
	resp, err := c.do(ctx, &req)
	if err != nil {
		return Item{}, err
	}
	item := Item{Key: key, Value: resp.body, Version: resp.version, ContentType: resp.contentType, Served: resp.served()}
	if resp.expires != "" {
		item.Expires = parseExpires(resp.expires)
	}
	if item.Value == nil {
		item.Value = []byte{}
	}
	return item, nil
}

// readQuery writes read options as parameters.
func readQuery(o ReadOptions) *queryString {
	var q queryString
	if o.Consistency != "" {
		q.add("consistency", string(o.Consistency))
	}
	if o.MaxStaleness != 0 {
		q.add("max_staleness", o.MaxStaleness.String())
	}
	if o.At != 0 {
		q.add("at", o.At.String())
	}
	if o.MinVersion != 0 {
		q.add("min_version", o.MinVersion.String())
	}
	return &q
}

func (r *response) served() Served {
	return Served{Shard: r.shard, Node: r.servedBy, Consistency: r.consistency}
}

// Put writes one key. The value must not be changed during the call.
func (c *Client) Put(ctx context.Context, key string, value []byte, o PutOptions) (PutResult, error) {
	req := request{
		method: http.MethodPut, body: value, key: key, route: true,
		contentType: o.ContentType, idempotencyKey: o.IdempotencyKey, ifMatch: etag(o.IfMatch),
	}
	if o.IfAbsent {
		req.ifNoneMatch = "*"
	}
	query := ""
	if o.TTL != 0 {
		query = "ttl=" + o.TTL.String()
	}
	req.target = keyTarget(key, query)
	resp, err := c.do(ctx, &req)
	if err != nil {
		return PutResult{}, err
	}
	return PutResult{
		Version: resp.version, Created: resp.status == http.StatusCreated,
		Replayed: resp.replayed, Served: resp.served(),
	}, nil
}

func etag(v kv.Version) string {
	if v == 0 {
		return ""
	}
	return `"` + v.String() + `"`
}

// DeleteOptions qualify a deletion.
type DeleteOptions struct {
	IfMatch        kv.Version // delete only if this is the key's version
	IdempotencyKey string
}

// DeleteResult tells of a deletion that was applied.
type DeleteResult struct {
	Deleted  int        // how many keys there were to delete
	Version  kv.Version // of the deletion, if the server told
	Replayed bool
	Served   Served
}

// Delete removes one key. That there was none is not an error.
func (c *Client) Delete(ctx context.Context, key string, o DeleteOptions) (DeleteResult, error) {
	return c.delete(ctx, request{
		method: http.MethodDelete, target: keyTarget(key, ""), key: key, route: true,
		ifMatch: etag(o.IfMatch), idempotencyKey: o.IdempotencyKey,
	})
}

// DeletePrefix removes all keys with a prefix, not atomically. The empty prefix is
// refused by the server: DeleteAll says so in words.
func (c *Client) DeletePrefix(ctx context.Context, prefix string) (DeleteResult, error) {
	var q queryString
	q.add("prefix", prefix)
	return c.delete(ctx, request{method: http.MethodDelete, target: "/v1/kv?" + q.String()})
}

// DeleteRange removes the keys in [start, end), not atomically; an empty end
// has no bound. A range without any bound is refused.
func (c *Client) DeleteRange(ctx context.Context, start, end string) (DeleteResult, error) {
	var q queryString
	q.add("start", start)
	if end != "" {
		q.add("end", end)
	}
	return c.delete(ctx, request{method: http.MethodDelete, target: "/v1/kv?" + q.String()})
}

// DeleteAll removes every key that there is, not atomically.
func (c *Client) DeleteAll(ctx context.Context) (DeleteResult, error) {
	return c.delete(ctx, request{method: http.MethodDelete, target: "/v1/kv?all=true"})
}

func (c *Client) delete(ctx context.Context, req request) (DeleteResult, error) {
	resp, err := c.do(ctx, &req)
	if err != nil {
		return DeleteResult{}, err
	}
	return DeleteResult{Deleted: resp.deleted, Version: resp.version, Replayed: resp.replayed, Served: resp.served()}, nil
}

// AddOptions qualify an addition.
type AddOptions struct {
	TTL            time.Duration
	IdempotencyKey string
}

// AddResult tells of an addition that was applied.
type AddResult struct {
	Value    int64 // after it
	Version  kv.Version
	Replayed bool
	Served   Served
}

// Add adds to a counter: a key whose value is a decimal number; a key that does
// not exist counts as 0. IsConflict is true of the error if the value is not a
// number or would overflow.
func (c *Client) Add(ctx context.Context, key string, delta int64, o AddOptions) (AddResult, error) {
	query := "op=add&delta=" + strconv.FormatInt(delta, 10)
	if o.TTL != 0 {
		query += "&ttl=" + o.TTL.String()
	}
	req := request{
		method: http.MethodPost, target: keyTarget(key, query), key: key, route: true,
		idempotencyKey: o.IdempotencyKey,
	}
	resp, err := c.do(ctx, &req)
	if err != nil {
		return AddResult{}, err
	}
	var body struct {
		Value   decimal `json:"value"`
		Version decimal `json:"version"`
	}
	if err := decodeBody(&resp, &body); err != nil {
		return AddResult{}, c.garbled(&req, &resp, err)
	}
	return AddResult{
		Value: int64(body.Value), Version: max(kv.Version(body.Version), resp.version),
		Replayed: resp.replayed, Served: resp.served(),
	}, nil
}

// parseExpires reads the Quorate-Expires header; nonsense counts as never.
func parseExpires(s string) time.Time {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t
	}
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms > 0 {
		return time.UnixMilli(ms)
	}
	if t, err := http.ParseTime(s); err == nil {
		return t
	}
	return time.Time{}
}
