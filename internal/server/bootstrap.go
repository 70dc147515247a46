package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
)

const (
	pendingFile    = "root-token.pending"
	bootstrapPause = 250 * time.Millisecond
	bootstrapTime  = 5 * time.Second // for one try
	// bootstrapPatience is after how many steps without a leader that makes the token
	// this is said.
	bootstrapPatience = 60
)

// bootstrap makes the cluster's first token, on the node that leads the meta shard,
// and shows it. The state machine takes one such token, ever. So that a crash between
// making and showing does not lose it, it is written to the data directory first, and
// taken away from there when it was shown: it is shown at least once, by one node.
type bootstrap struct {
	auth    Auth
	pending string // path
	tokens  func() *placement.TokenSet
	changed func() <-chan struct{}
	leads   func() bool
	create  func(ctx context.Context, order kv.TokenOrder) (kv.Token, error)
	log     *slog.Logger
	told    string // the last failure that was logged
	waited  int    // steps in which another node led and made none
}

func newBootstrap(n *Node) *bootstrap {
	return &bootstrap{
		auth:    n.config.Auth,
		pending: filepath.Join(n.config.DataDir, pendingFile),
		tokens:  func() *placement.TokenSet { return n.machine.State().Tokens() },
		changed: n.machine.Changed,
		leads:   metaReplica{n.host}.IsLeader,
		create:  n.control.CreateToken,
		log:     n.log,
	}
}

// run returns when there is a first token and, if it was made here, it was shown; or
// when ctx ends.
func (b *bootstrap) run(ctx context.Context) {
	tick := time.NewTicker(bootstrapPause)
	defer tick.Stop()
	for {
		changed := b.changed()
		done, err := b.step(ctx)
		switch {
		case done || ctx.Err() != nil:
			return
		case err != nil && err.Error() != b.told:
			b.told = err.Error()
			b.log.Warn("the cluster has no root token yet", "err", err)
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (b *bootstrap) step(ctx context.Context) (done bool, err error) {
	if b.tokens().Bootstrapped() {
		return b.finish()
	}
	if !b.leads() {
		if b.waited++; b.waited > bootstrapPatience {
			return false, errors.New("the node that leads the meta shard makes it; is it there, and was it started with --auth?")
		}
		return false, nil
	}
	text, err := b.mint()
	if err != nil {
		return false, err
	}
	id, hash, ok := access.Parse(text)
	if !ok { // cut off by a crash: never ordered
		return false, os.Remove(b.pending)
	}
	ctx, cancel := context.WithTimeout(ctx, bootstrapTime)
	defer cancel()
	_, err = b.create(ctx, kv.TokenOrder{ID: id, Hash: hash, Name: "root", Grants: []kv.Grant{{Role: kv.RoleAdmin}}, Bootstrap: true})
	if err != nil {
		return false, fmt.Errorf("make the root token: %w", err)
	}
	return false, nil // what is applied here tells, next time
}

// mint gives the token that is about to be ordered, durable in the data directory.
func (b *bootstrap) mint() (string, error) {
	text, err := b.read()
	if err == nil && text == "" {
		text, _, _ = access.Mint()
		err = writeSecret(b.pending, text+"\n")
	}
	return text, err
}

// read gives what is pending, "" if nothing is.
func (b *bootstrap) read() (string, error) {
	data, err := os.ReadFile(b.pending)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(data)), err
}

// finish shows what is pending if it is what the cluster has, and takes it away.
func (b *bootstrap) finish() (done bool, err error) {
	text, err := b.read()
	if err != nil || text == "" {
		return err == nil, err
	}
	if id, _, ok := access.Parse(text); ok && b.tokens().Has(id) {
		if err := b.auth.deliver(text); err != nil {
			return false, err
		}
		b.log.Info("this cluster's root token was made; it is shown once", "token_id", id, "file", b.auth.RootTokenFile)
	}
	return true, os.Remove(b.pending)
}

// writeSecret writes a file that only its owner may read, whole or not at all.
func writeSecret(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".secret-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
