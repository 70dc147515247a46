package memdata

import (
	"context"
	"slices"
	"sync"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
)

// Tokens is the tokens of a cluster in memory.
type Tokens struct {
	mu    sync.Mutex
	all   []kv.Token
	table *access.Table
}

// NewTokens begins with one root token, and gives its text.
func NewTokens() (t *Tokens, root string) {
	t = &Tokens{}
	text, id, hash := access.Mint()
	t.setLocked([]kv.Token{{ID: id, Hash: hash, Name: "root", Grants: []kv.Grant{{Role: kv.RoleAdmin}}, CreatedMs: adminEpochMs, Root: true}})
	return t, text
}

func (t *Tokens) setLocked(all []kv.Token) { t.all, t.table = all, access.NewTable(all, t.table) }

// Table gives the tokens compiled.
func (t *Tokens) Table() (*access.Table, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.table, nil
}

// CreateToken adds one.
func (t *Tokens) CreateToken(_ context.Context, o kv.TokenOrder) (kv.Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	made := kv.Token{ID: o.ID, Hash: o.Hash, Name: o.Name, Grants: o.Grants, CreatedMs: adminEpochMs, Rate: o.Rate}
	if o.TTLMs > 0 {
		made.ExpiresMs = adminEpochMs + o.TTLMs
	}
	t.setLocked(append(slices.Clone(t.all), made))
	return made, nil
}

// RevokeToken takes one away.
func (t *Tokens) RevokeToken(_ context.Context, id string) (kv.Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.all, func(t kv.Token) bool { return t.ID == id })
	if i < 0 {
		return kv.Token{}, kv.Errorf(kv.CodeNotFound, kv.OutcomeNotApplied, "no token %q", id)
	}
	gone := t.all[i]
	t.setLocked(slices.Delete(slices.Clone(t.all), i, i+1))
	return gone, nil
}

// Tokens gives all.
func (t *Tokens) Tokens(context.Context) ([]kv.Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all, nil
}
