package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// netTransport is the default transport: net/http with a pool that fits a
// database client.
type netTransport struct {
	rt        http.RoundTripper
	own       *http.Transport // rt, if it is ours to close
	userAgent string
	bearer    string // of the Authorization header
	bodyMax   int64
}

func newNetTransport(cfg Config) *netTransport {
	t := &netTransport{rt: cfg.Transport, userAgent: cfg.UserAgent, bearer: cfg.authorization(), bodyMax: cfg.ResponseBytesMax}
	if t.rt == nil {
		dialer := &net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 15 * time.Second}
		t.own = &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        cfg.TLS,
			TLSHandshakeTimeout:    5 * time.Second,
			MaxIdleConnsPerHost:    cfg.IdleConnsPerEndpoint,
			IdleConnTimeout:        cfg.IdleConnTimeout,
			MaxResponseHeaderBytes: headBytesMax,
			DisableCompression:     true, // values are asked for as they are
		}
		t.rt = t.own
	}
	return t
}

func (t *netTransport) closeIdle() {
	if t.own != nil {
		t.own.CloseIdleConnections()
	}
}

func (t *netTransport) roundTrip(ctx context.Context, ep *endpoint, req *request, at schedule) (response, error) {
	ctx, cancel := context.WithDeadline(ctx, at.deadline)
	defer cancel()
	// net/http sends a request again by itself if a connection that was idle breaks.
	// When it then cannot connect, that is the error, though the request was sent before.
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	answer, err := t.rt.RoundTrip(t.build(ctx, ep, req, at.server))
	if err != nil {
		if t.own != nil && ctx.Err() != nil && !neverSent(err) && !connected.Load() {
			err = &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()} // net/http gave up waiting for it
		}
		return response{}, &transportError{err: plain(err), unsent: neverSent(err) && !connected.Load()}
	}
	defer answer.Body.Close()
	resp := responseFrom(answer)
	if resp.body, err = readBody(answer, t.bodyMax); err != nil {
		if errors.Is(err, errBodyTooLarge) {
			return response{}, &transportError{err: err, tooLarge: true}
		}
		return response{}, &transportError{err: fmt.Errorf("the answer broke off: %w", plain(err))}
	}
	return resp, nil
}

func (t *netTransport) build(ctx context.Context, ep *endpoint, req *request, server time.Duration) *http.Request {
	header := http.Header{
		"User-Agent":      {t.userAgent},
		"Quorate-Timeout": {formatTimeout(server)},
	}
	set := func(name, value string) {
		if value != "" {
			header[name] = []string{value}
		}
	}
	set("Authorization", t.bearer)
	set("Content-Type", req.contentType)
	set("Accept", req.accept)
	set("If-Match", req.ifMatch)
	set("If-None-Match", req.ifNoneMatch)
	set("Idempotency-Key", req.idempotencyKey)
	path, query, _ := strings.Cut(req.target, "?")
	r := &http.Request{
		Method: req.method,
		// Opaque sends the path as it was encoded, byte for byte.
		URL:    &url.URL{Scheme: ep.scheme, Host: ep.host, Opaque: path, RawQuery: query},
		Host:   ep.host,
		Header: header,
	}
	if len(req.body) > 0 || req.method == http.MethodPut || req.method == http.MethodPost {
		r.ContentLength = int64(len(req.body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(req.body)), nil }
		r.Body = http.NoBody
		if len(req.body) > 0 {
			r.Body, _ = r.GetBody()
		}
	}
	return r.WithContext(ctx)
}

// formatTimeout writes whole milliseconds, at least one, as a Go duration.
func formatTimeout(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10) + "ms"
}

func responseFrom(a *http.Response) response {
	resp := response{status: a.StatusCode}
	first := func(name string) string {
		if v := a.Header[name]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	resp.contentType = first("Content-Type")
	resp.expires = first("Quorate-Expires")
	resp.servedBy = first("Quorate-Served-By")
	resp.consistency = kv.Consistency(first("Quorate-Consistency"))
	resp.version = versionOf(first("Quorate-Version"), first("Etag"))
	if v := first("Quorate-Shard"); v != "" {
		n, _ := strconv.ParseUint(v, 10, 64)
		resp.shard = kv.ShardID(n)
	}
	if v := first("Quorate-Deleted"); v != "" {
		resp.deleted, _ = strconv.Atoi(v)
	}
	resp.replayed = first("Quorate-Replayed") == "true"
	resp.retryAfter = parseRetryAfter(first("Retry-After"))
	return resp
}

// versionOf reads a version from its own header, or from an entity tag.
func versionOf(own, etag string) kv.Version {
	if own == "" {
		own = strings.Trim(strings.TrimPrefix(etag, "W/"), `"`)
	}
	v, err := kv.ParseVersion(own)
	if err != nil {
		return 0
	}
	return v
}

// parseRetryAfter reads seconds; the header's date form is not used by Quorate
// and counts as nothing.
func parseRetryAfter(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

var errBodyTooLarge = errors.New("the answer is larger than ResponseBytesMax")

func readBody(a *http.Response, limit int64) ([]byte, error) {
	switch n := a.ContentLength; {
	case n > limit:
		return nil, errBodyTooLarge
	case n == 0:
		return nil, nil
	case n > 0:
		body := make([]byte, n)
		_, err := io.ReadFull(a.Body, body)
		return body, err
	}
	body, err := io.ReadAll(io.LimitReader(a.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		return nil, errBodyTooLarge
	}
	return body, err
}

// neverSent reports whether a failure of RoundTrip happened before there was a
// connection to send on.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || tlsFailed(err)
}

// plain takes the operation and addresses off an error of the net package, which
// Error.Endpoint tells already.
func plain(err error) error {
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial":
		return fmt.Errorf("cannot connect: %w", op.Err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the connection was closed before the answer: %w", err)
	}
	return err
}
