package kv

import (
	"errors"
	"fmt"
	"math"
)

// TokenRole is what a grant is about. Each role takes in those before it.
type TokenRole string

const (
	RoleReader TokenRole = "reader" // reads keys
	RoleWriter TokenRole = "writer" // writes and reads keys
	RoleAdmin  TokenRole = "admin"  // changes the cluster and its tokens, and all keys
)

// Grant allows a role, or denies it, on the keys that begin with a prefix. No prefix
// means all keys.
type Grant struct {
	Role   TokenRole
	Prefix []byte
	Deny   bool
}

// TokenHash is the SHA-256 of a token's secret.
type TokenHash [32]byte

// Token is a client's credential as the cluster keeps it, without its secret.
type Token struct {
	ID        string // 16 hexadecimal digits
	Hash      TokenHash
	Name      string
	Grants    []Grant
	CreatedMs int64
	ExpiresMs int64   // 0 = never
	Rate      float64 // requests a second and node; 0 = no limit
	Root      bool    // the one that the cluster began with
}

// TokenOrder is a token that is to be made. The cluster dates it.
type TokenOrder struct {
	ID     string
	Hash   TokenHash
	Name   string
	Grants []Grant
	TTLMs  int64 // 0 = it does not expire
	Rate   float64
	// Bootstrap makes the first token. It is refused (CodeConflict) where there has
	// ever been one that was made so.
	Bootstrap bool
}

// tokenIDDigits is the length of a token's id.
const tokenIDDigits = 16

// Validate reports everything that is wrong with the order at once, each by the
// name that it has in JSON.
func (o *TokenOrder) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !ValidTokenID(o.ID) {
		bad("id: want %d hexadecimal digits", tokenIDDigits)
	}
	if len(o.Name) > TokenNameBytesMax || !printable(o.Name) {
		bad("name: want printable ASCII of at most %d bytes", TokenNameBytesMax)
	}
	if o.TTLMs < 0 || o.TTLMs > TTLMax.Milliseconds() {
		bad("ttl: want at most %s", TTLMax)
	}
	if math.IsNaN(o.Rate) || o.Rate < 0 || o.Rate > TokenRateMax {
		bad("rate: want requests a second, at most %d, or 0 (no limit)", TokenRateMax)
	}
	if n := len(o.Grants); n < 1 || n > GrantsMax {
		bad("grants: want 1 to %d", GrantsMax)
	}
	prefixes := 0
	for i := range o.Grants {
		prefixes += len(o.Grants[i].Prefix)
		if err := o.Grants[i].validate(); err != nil {
			bad("grants[%d]: %w", i, err)
		}
	}
	if prefixes > TokenPrefixBytesMax {
		bad("grants: all prefixes together have at most %d bytes", TokenPrefixBytesMax)
	}
	return errors.Join(errs...)
}

func (g *Grant) validate() error {
	switch g.Role {
	case RoleReader, RoleWriter:
	case RoleAdmin:
		if len(g.Prefix) > 0 {
			return errors.New("role admin is for the whole cluster and takes no prefix")
		}
	default:
		return fmt.Errorf("role %q: want reader, writer or admin", g.Role)
	}
	if len(g.Prefix) > KeyBytesMax {
		return fmt.Errorf("prefix: a key has at most %d bytes", KeyBytesMax)
	}
	return nil
}

// ValidTokenID reports whether a text has the form of a token's id.
func ValidTokenID(id string) bool {
	if len(id) != tokenIDDigits {
		return false
	}
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
