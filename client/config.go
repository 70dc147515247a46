package client

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Defaults of Config and RetryPolicy.
const (
	DialTimeoutDefault          = time.Second
	AttemptsDefault             = 10
	BackoffMinDefault           = 25 * time.Millisecond
	BackoffMaxDefault           = time.Second
	IdleConnsPerEndpointDefault = 256
	IdleConnTimeoutDefault      = 30 * time.Second
	ResponseBytesMaxDefault     = 64 << 20
)

// Config says how a Client reaches its cluster. Only Endpoints is required.
type Config struct {
	// Endpoints are nodes of the cluster, "host:port" or "http(s)://host:port".
	// Requests are spread over them; any node serves any request.
	Endpoints []string

	// Timeout bounds a call, retries included; 0 = kv.RequestTimeoutDefault. A
	// context's earlier deadline comes first. Over kv.RequestTimeoutMax is an error.
	Timeout time.Duration

	// DialTimeout bounds the making of a connection.
	DialTimeout time.Duration

	// Retry says when to try again.
	Retry RetryPolicy

	// RouteToLeader sends a request for one key straight to the node that leads
	// the key's shard, which saves the hop inside the cluster. The client then
	// keeps a copy of the shard map. A node that cannot be reached from here, or
	// a map that is out of date, costs a little time and never correctness. Where
	// tokens are asked for, it takes one that may read all keys, or administer: the
	// map tells where shards begin. With another one it does nothing.
	RouteToLeader bool

	// Transport replaces the client's own net/http transport.
	Transport http.RoundTripper

	// Lean replaces net/http by a small HTTP/1.1 transport of our own, which
	// takes less than half of the processor time per request. It knows neither
	// HTTP/2 nor proxies. Not together with Transport.
	Lean bool

	// TLS is used for https endpoints unless Transport is set.
	TLS *tls.Config

	// IdleConnsPerEndpoint is how many idle connections are kept per endpoint.
	IdleConnsPerEndpoint int

	// IdleConnTimeout closes connections that were idle for so long. It must be
	// shorter than the server's.
	IdleConnTimeout time.Duration

	// ResponseBytesMax bounds the body of an answer.
	ResponseBytesMax int64

	// Token is sent with each request, for clusters that ask for one (quorate token
	// create). It is a secret: over plain http everybody on the way reads it.
	Token string

	// UserAgent is sent with each request; "" = "quorate-go".
	UserAgent string
}

// authorization gives the value of the Authorization header, "" for none.
func (cfg *Config) authorization() string {
	if cfg.Token == "" {
		return ""
	}
	return "Bearer " + cfg.Token
}

// RetryPolicy says when a call is attempted again. What is retried: a request
// that certainly was not applied and that the server calls retryable, and a
// read or a write with an idempotency key of which no answer came.
type RetryPolicy struct {
	// Attempts bounds the attempts of a call; 0 = AttemptsDefault, 1 = never
	// retry, in which case writes carry no idempotency key unless given one.
	Attempts int

	// AttemptTimeout bounds one attempt while another may follow, so that a node
	// that has vanished does not use up the whole deadline; 0 = 2/5 of the call's timeout.
	AttemptTimeout time.Duration

	// BackoffMin is the first wait between attempts, doubled up to BackoffMax;
	// each is drawn evenly from its upper half.
	BackoffMin time.Duration
	BackoffMax time.Duration
}

func (cfg Config) withDefaults() (Config, error) {
	setDuration(&cfg.Timeout, kv.RequestTimeoutDefault)
	setDuration(&cfg.DialTimeout, DialTimeoutDefault)
	setDuration(&cfg.Retry.AttemptTimeout, cfg.Timeout*2/5)
	setDuration(&cfg.Retry.BackoffMin, BackoffMinDefault)
	setDuration(&cfg.Retry.BackoffMax, max(BackoffMaxDefault, cfg.Retry.BackoffMin))
	setDuration(&cfg.IdleConnTimeout, IdleConnTimeoutDefault)
	if cfg.Retry.Attempts == 0 {
		cfg.Retry.Attempts = AttemptsDefault
	}
	if cfg.IdleConnsPerEndpoint == 0 {
		cfg.IdleConnsPerEndpoint = IdleConnsPerEndpointDefault
	}
	if cfg.ResponseBytesMax == 0 {
		cfg.ResponseBytesMax = ResponseBytesMaxDefault
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "quorate-go"
	}
	switch {
	case len(cfg.Endpoints) == 0:
		return cfg, fmt.Errorf("client: no endpoints")
	case cfg.Timeout < time.Millisecond || cfg.Timeout > kv.RequestTimeoutMax:
		return cfg, fmt.Errorf("client: timeout %s: want 1ms to %s", cfg.Timeout, kv.RequestTimeoutMax)
	case cfg.DialTimeout < 0 || cfg.IdleConnTimeout < 0 || cfg.Retry.AttemptTimeout < 0:
		return cfg, fmt.Errorf("client: a timeout is negative")
	case cfg.Retry.Attempts < 0:
		return cfg, fmt.Errorf("client: %d attempts: want at least 1", cfg.Retry.Attempts)
	case cfg.Retry.BackoffMin < 0 || cfg.Retry.BackoffMax < cfg.Retry.BackoffMin:
		return cfg, fmt.Errorf("client: backoff from %s to %s", cfg.Retry.BackoffMin, cfg.Retry.BackoffMax)
	case cfg.IdleConnsPerEndpoint < 0 || cfg.ResponseBytesMax < 0:
		return cfg, fmt.Errorf("client: a limit is negative")
	case cfg.Lean && cfg.Transport != nil:
		return cfg, fmt.Errorf("client: both Lean and Transport are set")
	case strings.ContainsAny(cfg.UserAgent, "\r\n"):
		return cfg, fmt.Errorf("client: line break in UserAgent")
	case strings.ContainsFunc(cfg.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return cfg, fmt.Errorf("client: the token has characters that no token has") // and must not be shown
	}
	return cfg, nil
}

func setDuration(d *time.Duration, def time.Duration) {
	if *d == 0 {
		*d = def
	}
}

// parseEndpoint gives scheme and host:port of an endpoint as a user writes it.
func parseEndpoint(s string) (scheme, host string, err error) {
	text := s
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", "", fmt.Errorf("client: endpoint %q: %w", s, err)
	}
	scheme, host = u.Scheme, u.Host
	switch {
	case scheme != "http" && scheme != "https":
		return "", "", fmt.Errorf("client: endpoint %q: want http or https", s)
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return "", "", fmt.Errorf("client: endpoint %q: want host:port or http(s)://host:port", s)
	}
	if u.Port() == "" {
		port := ":80"
		if scheme == "https" {
			port = ":443"
		}
		host = strings.TrimSuffix(host, ":") + port
	}
	return scheme, host, nil
}
