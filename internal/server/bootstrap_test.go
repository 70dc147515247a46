package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
)

// newTestBootstrap is one node's of a cluster that shares a meta log.
func newTestBootstrap(t *testing.T, l *metaLog, shown *[]string) *bootstrap {
	return &bootstrap{
		auth:    Auth{On: true, Show: func(token string) error { *shown = append(*shown, token); return nil }},
		pending: filepath.Join(t.TempDir(), pendingFile), tokens: func() *placement.TokenSet { return l.m.State().Tokens() },
		changed: l.m.Changed, leads: func() bool { return true }, create: l.create, log: slog.New(slog.DiscardHandler),
	}
}

// steps goes on until nothing is left to do.
func (b *bootstrap) steps(t *testing.T) {
	t.Helper()
	for range 5 {
		if done, err := b.step(t.Context()); err != nil {
			t.Fatal(err)
		} else if done {
			return
		}
	}
	t.Fatal("never done")
}

func TestTheRootTokenIsShownOnce(t *testing.T) {
	l := newMetaLog(t)
	var shown []string
	b := newTestBootstrap(t, l, &shown)
	b.leads = func() bool { return false }
	for range bootstrapPatience {
		if done, err := b.step(t.Context()); done || err != nil {
			t.Fatal(done, err)
		}
	}
	if _, err := b.step(t.Context()); err == nil || !strings.Contains(err.Error(), "--auth") {
		t.Errorf("silent for ever: %v", err)
	}
	b.leads = func() bool { return true }
	b.steps(t)
	if len(shown) != 1 {
		t.Fatal(shown)
	}
	id, hash, ok := access.Parse(shown[0])
	all := l.m.State().Tokens().All()
	if !ok || len(all) != 1 || all[0].ID != id || all[0].Hash != hash || !all[0].Root || !access.NewPolicy(all[0].Grants).Allows(access.Op{Act: access.Administer}) {
		t.Errorf("%+v", all)
	}
	if _, err := os.Stat(b.pending); err == nil {
		t.Error("the token is left in the data directory")
	}
	b.steps(t) // a restart
	other := newTestBootstrap(t, l, &shown)
	other.steps(t)
	if len(shown) != 1 {
		t.Errorf("shown %d times", len(shown))
	}
}

// TestACrashDoesNotLoseTheRootToken ends the node after each of its steps.
func TestACrashDoesNotLoseTheRootToken(t *testing.T) {
	crash := errors.New("crash")
	for name, spoil := range map[string]func(l *metaLog, b *bootstrap){
		"before it is ordered": func(_ *metaLog, b *bootstrap) {
			b.create = func(context.Context, kv.TokenOrder) (kv.Token, error) { return kv.Token{}, crash }
		},
		"after it is ordered": func(l *metaLog, b *bootstrap) {
			b.create = func(ctx context.Context, o kv.TokenOrder) (kv.Token, error) {
				_, _ = l.create(ctx, o)
				return kv.Token{}, crash
			}
		},
		"while it is shown": func(_ *metaLog, b *bootstrap) { b.auth.Show = func(string) error { return crash } },
		"half written": func(_ *metaLog, b *bootstrap) {
			if err := os.WriteFile(b.pending, []byte("qrt_0123"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		l := newMetaLog(t)
		var shown []string
		b := newTestBootstrap(t, l, &shown)
		whole := *b
		spoil(l, b)
		for range 3 {
			_, _ = b.step(t.Context())
		}
		again := whole // the process that comes after
		again.steps(t)
		all := l.m.State().Tokens().All()
		if len(shown) == 0 || len(all) != 1 || !strings.Contains(shown[len(shown)-1], all[0].ID) {
			t.Errorf("%s: shown %q, there is %+v", name, shown, all)
		}
	}
}

func TestTwoNodesMakeOneRootToken(t *testing.T) {
	l := newMetaLog(t)
	var shown []string
	first, second := newTestBootstrap(t, l, &shown), newTestBootstrap(t, l, &shown)
	if _, err := first.mint(); err != nil { // it was about to, when another one came to lead
		t.Fatal(err)
	}
	second.steps(t)
	first.steps(t)
	if len(shown) != 1 || len(l.m.State().Tokens().All()) != 1 {
		t.Errorf("shown %q", shown)
	}
	if _, err := os.Stat(first.pending); err == nil {
		t.Error("a token that counts nowhere is left in the data directory")
	}
}

func TestRootTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root")
	a := Auth{RootTokenFile: path}
	if err := a.deliver("qrt_x"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if text, _ := os.ReadFile(path); err != nil || info.Mode().Perm() != 0o600 || string(text) != "qrt_x\n" {
		t.Errorf("%q, %v, %v", text, info, err)
	}
	a.RootTokenFile = filepath.Join(t.TempDir(), "none", "root")
	if err := a.deliver("qrt_x"); err == nil {
		t.Error("written to nowhere")
	}
	if err := (&Auth{}).deliver("qrt_x"); !errors.Is(err, errNoPlace) {
		t.Error(err)
	}
}
