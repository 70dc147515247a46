package httpd

import (
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// queryParamsMax is more parameters than any route knows.
const queryParamsMax = 12

// query holds the parameters of a URL. A handler takes what it knows and then
// calls done, which refuses the rest (invariant 3).
type query struct {
	names, values [queryParamsMax]string
	n             int
	taken         uint32 // bit i: parameter i was taken
}

// parse reads a raw query; a name may occur once.
func (q *query) parse(raw string) error {
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if pair == "" {
			continue
		}
		if strings.Contains(pair, ";") {
			return invalid("query: a semicolon must be written %3B")
		}
		name, value, _ := strings.Cut(pair, "=")
		var err error
		if name, err = url.QueryUnescape(name); err != nil {
			return invalid("query: " + err.Error())
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return invalid("query: " + err.Error())
		}
		for i := range q.n {
			if q.names[i] == name {
				return invalid("query: " + strconv.Quote(name) + " is given more than once")
			}
		}
		if q.n == queryParamsMax {
			return invalid("query: more parameters than any route knows")
		}
		q.names[q.n], q.values[q.n] = name, value
		q.n++
	}
	return nil
}

// take gives a parameter's value and marks it as known.
func (q *query) take(name string) (value string, ok bool) {
	for i := range q.n {
		if q.names[i] == name {
			q.taken |= 1 << i
			return q.values[i], true
		}
	}
	return "", false
}

// done refuses what no one took.
func (q *query) done() error {
	if q.taken == 1<<q.n-1 {
		return nil
	}
	for i := range q.n {
		if q.taken&(1<<i) == 0 {
			return invalid("query: " + strconv.Quote(q.names[i]) + " is not a parameter of this route")
		}
	}
	return nil
}

// flag takes a boolean; a bare name means true.
func (q *query) flag(name string) (bool, error) {
	v, ok := q.take(name)
	switch {
	case !ok:
		return false, nil
	case v == "" || v == "true":
		return true, nil
	case v == "false":
		return false, nil
	}
	return false, invalid("query: " + name + ": want true or false")
}

// encoded takes enc, which says how keys are written in the URL.
func (q *query) encoded() (bool, error) {
	v, ok := q.take("enc")
	if ok && v != "base64url" {
		return false, invalid("query: enc: want base64url")
	}
	return ok, nil
}

// bytes takes a parameter that holds a key or a part of one.
func (q *query) bytes(name string, encoded bool) (value []byte, ok bool, err error) {
	v, ok := q.take(name)
	if !ok {
		return nil, false, nil
	}
	value, err = keyBytes(v, encoded)
	return value, true, err
}

// keyBytes decodes a key of a URL and holds it to its limit; it may be empty.
func keyBytes(text string, encoded bool) ([]byte, error) {
	if encoded && len(text) <= base64.RawURLEncoding.EncodedLen(kv.KeyBytesMax)+2 {
		b, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(text, "="))
		if err != nil {
			return nil, invalid("the key is not base64url: " + err.Error())
		}
		if len(b) <= kv.KeyBytesMax {
			return b, nil
		}
	} else if len(text) <= kv.KeyBytesMax {
		return []byte(text), nil
	}
	p := refusal(kv.CodeKeyTooLong, "a key has at most "+strconv.Itoa(kv.KeyBytesMax)+" bytes")
	p.limit = kv.KeyBytesMax
	return nil, p
}

// key gives the key in the path. It is read from the decoded path, not from mux's
// variables, which hold the same bytes.
func (x *exchange) key() ([]byte, error) {
	encoded, err := x.query.encoded()
	if err != nil {
		return nil, err
	}
	k, err := keyBytes(x.r.URL.Path[len(keyPrefix):], encoded)
	if err == nil && len(k) == 0 {
		return nil, invalid("the key is empty; a scan is GET /v1/kv")
	}
	return k, err
}

// readOptions takes the parameters that qualify a read.
func (q *query) readOptions() (kv.ReadOptions, error) {
	if q.n == 0 {
		return kv.ReadOptions{Consistency: kv.Linearizable}, nil
	}
	var in readWords
	in.consistency, in.hasConsistency = q.take("consistency")
	in.maxStaleness, in.hasMaxStaleness = q.take("max_staleness")
	in.at, in.hasAt = q.take("at")
	in.minVersion, in.hasMinVersion = q.take("min_version")
	return in.options()
}

// readWords are the words of a read's qualification, from a URL or from JSON.
type readWords struct {
	consistency, maxStaleness, at, minVersion             string
	hasConsistency, hasMaxStaleness, hasAt, hasMinVersion bool
}

func (in *readWords) options() (kv.ReadOptions, error) {
	o := kv.ReadOptions{Consistency: kv.Linearizable}
	if in.hasConsistency {
		o.Consistency = kv.Consistency(in.consistency)
		if o.Consistency != kv.Linearizable && o.Consistency != kv.Stale {
			return o, invalid("consistency: want linearizable or stale")
		}
	}
	if in.hasMaxStaleness {
		d, err := time.ParseDuration(in.maxStaleness)
		if err != nil || d <= 0 {
			return o, invalid("max_staleness: want a duration like 5s")
		}
		if o.Consistency != kv.Stale {
			return o, invalid("max_staleness goes with consistency=stale")
		}
		o.MaxStaleness = d
	}
	var err error
	if in.hasAt {
		if o.At, err = kv.ParseVersion(in.at); err != nil {
			return o, invalid("at: " + err.Error())
		}
		if o.Consistency == kv.Stale {
			return o, invalid("at does not go with consistency=stale")
		}
	}
	if in.hasMinVersion {
		if o.MinVersion, err = kv.ParseVersion(in.minVersion); err != nil {
			return o, invalid("min_version: " + err.Error())
		}
	}
	return o, nil
}

// ttlMillis reads a time to live: a positive Go duration of at least 1 ms.
func ttlMillis(text string) (int64, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Millisecond || d > kv.TTLMax {
		return 0, invalid("ttl: want a duration like 30s, at least 1ms and at most " + kv.TTLMax.String())
	}
	return d.Milliseconds(), nil
}
