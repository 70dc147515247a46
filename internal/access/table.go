package access

import (
	"crypto/subtle"
	"math"

	"golang.org/x/time/rate"

	"github.com/quorate-db/quorate/kv"
)

// Credential is a token as one node uses it.
type Credential struct {
	Token   kv.Token
	Policy  *Policy
	Limiter *rate.Limiter // nil: no limit
}

// Table holds all tokens of a cluster, compiled. It is immutable but for what its
// limiters count; a request that began with one goes on with it.
type Table struct{ byID map[string]*Credential }

// NewTable compiles tokens. What has not changed since old is taken from there, so
// that a token's limit counts on while others come and go. Old may be nil.
func NewTable(tokens []kv.Token, old *Table) *Table {
	t := &Table{byID: make(map[string]*Credential, len(tokens))}
	for i := range tokens {
		id := tokens[i].ID
		// A token never changes: under the same id and hash it is the same.
		if c := old.get(id); c != nil && c.Token.Hash == tokens[i].Hash {
			t.byID[id] = c
			continue
		}
		c := &Credential{Token: tokens[i], Policy: NewPolicy(tokens[i].Grants)}
		if r := tokens[i].Rate; r > 0 {
			c.Limiter = rate.NewLimiter(rate.Limit(r), burst(r))
		}
		t.byID[id] = c
	}
	return t
}

// burst gives how many requests may come at once: those of a second, at least one.
func burst(perSecond float64) int { return int(math.Ceil(perSecond)) }

func (t *Table) get(id string) *Credential {
	if t == nil {
		return nil
	}
	return t.byID[id]
}

// Len gives how many tokens there are.
func (t *Table) Len() int { return len(t.byID) }

// Verdict says why a token does not count.
type Verdict string

const (
	// Unknown: there is no such token, or no longer.
	Unknown Verdict = "unknown"
	// Expired: there was.
	Expired Verdict = "expired"
)

// Find gives the credential of a token's text, or why there is none. The secrets'
// hashes are compared in constant time.
func (t *Table) Find(text string, nowMs int64) (*Credential, Verdict) {
	id, hash, ok := Parse(text)
	if !ok {
		return nil, Unknown
	}
	c := t.get(id)
	if c == nil || subtle.ConstantTimeCompare(c.Token.Hash[:], hash[:]) != 1 {
		return nil, Unknown
	}
	if c.Expired(nowMs) {
		return nil, Expired
	}
	return c, ""
}

// Holds reports whether the credential's token is still there and not expired.
func (t *Table) Holds(c *Credential, nowMs int64) bool {
	return t.get(c.Token.ID) == c && !c.Expired(nowMs)
}

// Expired reports whether the token's time is over.
func (c *Credential) Expired(nowMs int64) bool {
	return c.Token.ExpiresMs != 0 && nowMs >= c.Token.ExpiresMs
}
