package httpd

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// fakeAccess is the tokens of a node, and what makes and revokes them.
type fakeAccess struct {
	mu    sync.Mutex
	all   []kv.Token
	table atomic.Pointer[access.Table]
	err   error
}

func (f *fakeAccess) Table() (*access.Table, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.table.Load(), f.err
}

func (f *fakeAccess) setLocked(all []kv.Token) {
	f.all = all
	f.table.Store(access.NewTable(all, f.table.Load()))
}

func (f *fakeAccess) CreateToken(_ context.Context, o kv.TokenOrder) (kv.Token, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := kv.Token{ID: o.ID, Hash: o.Hash, Name: o.Name, Grants: o.Grants, CreatedMs: 1, Rate: o.Rate}
	if o.TTLMs != 0 {
		t.ExpiresMs = o.TTLMs + 1
	}
	f.setLocked(append(slices.Clone(f.all), t))
	return t, nil
}

func (f *fakeAccess) RevokeToken(_ context.Context, id string) (kv.Token, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.all, func(t kv.Token) bool { return t.ID == id })
	if i < 0 {
		return kv.Token{}, &kv.Error{Code: kv.CodeNotFound, Outcome: kv.OutcomeNotApplied}
	}
	gone := f.all[i]
	f.setLocked(slices.Delete(slices.Clone(f.all), i, i+1))
	return gone, nil
}

func (f *fakeAccess) Tokens(context.Context) ([]kv.Token, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all, nil
}

// token adds a token and gives its text.
func (f *fakeAccess) token(o kv.TokenOrder) (text, id string) {
	text, o.ID, o.Hash = access.Mint()
	_, _ = f.CreateToken(context.Background(), o)
	return text, o.ID
}

func grants(text ...string) (out []kv.Grant) {
	for _, g := range text {
		g, denied := strings.CutPrefix(g, "-")
		role, prefix, _ := strings.Cut(g, " ")
		out = append(out, kv.Grant{Role: kv.TokenRole(role), Prefix: []byte(prefix), Deny: denied})
	}
	return out
}

// guardedRig is a rig that asks for tokens.
type guardedRig struct {
	*rig
	access *fakeAccess
	admin  *fakeAdmin
	trail  *fakeAudit
	mu     sync.Mutex
	audits []AuditInfo
	calls  []string // of the data plane
	bearer map[string]string
	now    atomic.Int64 // milliseconds
}

func newGuardedRig(t *testing.T) *guardedRig {
	g := &guardedRig{access: &fakeAccess{}, admin: newFakeAdmin(), trail: &fakeAudit{}, bearer: map[string]string{}}
	g.access.setLocked(nil)
	g.now.Store(1_700_000_000_000)
	g.rig = newRig(t, func(o *Options) {
		o.Access, o.Tokens, o.Admin, o.Audit = g.access, g.access, g.admin, g.trail
		o.Now = func() time.Time { return time.UnixMilli(g.now.Load()) }
		o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "up 1") })
		o.Hooks.Audit = func(i AuditInfo) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.audits = append(g.audits, i)
		}
	})
	g.data.fail = func(_ context.Context, method string) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.calls = append(g.calls, method)
		return nil
	}
	for name, list := range map[string][]kv.Grant{
		"reader": grants("reader"), "writer": grants("writer"), "admin": grants("admin"),
		"elsewhere": grants("writer other/"), "inside": grants("writer app/"), "viewer": grants("reader app/"),
		"operator": grants("admin", "-reader"),
	} {
		g.bearer[name], _ = g.access.token(kv.TokenOrder{Name: name, Grants: list})
	}
	g.bearer["wrong"], _, _ = access.Mint()
	g.bearer["garbage"] = "qrt_x"
	g.bearer["half"] = g.bearer["admin"][:21] + g.bearer["wrong"][21:] // an id that is there, another secret
	revoked, id := g.access.token(kv.TokenOrder{Grants: grants("admin")})
	_, _ = g.access.RevokeToken(t.Context(), id)
	g.bearer["revoked"] = revoked
	g.bearer["expired"], _ = g.access.token(kv.TokenOrder{Grants: grants("admin"), TTLMs: g.now.Load() - 1})
	return g
}

// took gives what reached the data plane and the control plane since the last time.
func (g *guardedRig) took() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := strings.Join(g.calls, " ") + g.admin.take() + g.trail.take()
	g.calls = nil
	return out
}

func (g *guardedRig) audited() []AuditInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.audits
	g.audits = nil
	return out
}

const canary = "canary-7d1f"

// fill puts the keys back that the routes below work on.
func (g *guardedRig) fill() {
	g.data.mu.Lock()
	defer g.data.mu.Unlock()
	for _, k := range []string{"app/k", "app/n"} {
		g.data.version++
		g.data.items[k] = &kvpb.Item{Key: []byte(k), Value: []byte(canary), Version: g.data.version}
	}
	g.data.items["app/n"].Value = []byte("1")
}
