package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/quorate-db/quorate/httpd"
	"github.com/quorate-db/quorate/internal/audit"
)

const auditFile = "audit.log"

// guard is what a node with --auth has beside the others: who may do what, the audit
// log, and the first token. Without it, all of it is absent.
type guard struct {
	process   *process
	authority *authority
	log       *audit.Log
	failing   atomic.Bool // the last line could not be written
	cancel    context.CancelFunc
	wg        sync.WaitGroup
}

// guard begins with what Config.Auth asks for; close ends it.
func (p *process) guard() (*guard, error) {
	ctx, cancel := context.WithCancel(context.Background())
	g := &guard{process: p, cancel: cancel}
	if !p.config.Auth.On {
		g.wg.Go(func() { g.warnIfOpen(ctx) })
		return g, nil
	}
	var err error
	g.log, err = audit.Open(audit.Options{Path: filepath.Join(p.config.DataDir, auditFile)})
	if err != nil {
		cancel()
		return nil, err
	}
	p.trail.begin(p.node, g.log)
	g.authority = newAuthority(p.node)
	b := newBootstrap(p.node)
	g.wg.Go(func() { b.run(ctx) })
	return g, nil
}

// access gives what httpd asks for tokens, nil if nobody has to have one.
func (g *guard) access() httpd.Access {
	if g.authority == nil {
		return nil
	}
	return g.authority
}

// trail gives what httpd asks for audit logs, nil if this node keeps none.
func (g *guard) trail() httpd.Audit {
	if g.log == nil {
		return nil
	}
	return g.process.trail
}

// hooks adds the audit log.
func (g *guard) hooks(h httpd.Hooks) httpd.Hooks {
	if g.log != nil {
		h.Audit = g.audit
	}
	return h
}

// audit writes a line. A log that cannot be written does not stop the cluster, but it is
// said, once until it works again.
func (g *guard) audit(i httpd.AuditInfo) {
	err := g.log.Record(audit.Entry{
		Node: g.process.node.Identity().Node().String(), Token: i.Token, Name: i.Name, Method: i.Method, Route: i.Route, Target: i.Target,
		From: i.From, Status: i.Status, Code: string(i.Code), Outcome: string(i.Outcome),
	})
	if was := g.failing.Swap(err != nil); err != nil && !was {
		g.process.node.log.Error("requests are not audited", "err", err)
	}
}

// warnIfOpen says so if other nodes of the cluster ask for tokens and this one lets
// everybody do everything.
func (g *guard) warnIfOpen(ctx context.Context) {
	select {
	case <-g.process.node.Control().Joined():
	case <-ctx.Done():
		return
	}
	m := g.process.node.Meta()
	for {
		changed := m.Changed()
		if m.State().Tokens().Bootstrapped() {
			g.process.node.log.Warn("this cluster has tokens, but this node was started without --auth and asks nobody for one")
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (g *guard) close() {
	g.cancel()
	g.wg.Wait()
	g.process.trail.close()
	if g.log == nil {
		return
	}
	if err := g.log.Close(); err != nil {
		g.process.log.Error("the audit log was not closed in order", "err", err)
	}
}

// errNoPlace: there is nobody to show the first token to.
var errNoPlace = errors.New("nothing to show the root token on: give --root-token-file")

// deliver hands the first token to whoever started the node.
func (a *Auth) deliver(token string) error {
	switch {
	case a.RootTokenFile != "":
		if err := writeSecret(a.RootTokenFile, token+"\n"); err != nil {
			return fmt.Errorf("--root-token-file: %w", err)
		}
		return nil
	case a.Show != nil:
		return a.Show(token)
	default:
		return errNoPlace
	}
}
