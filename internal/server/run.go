package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/quorate-db/quorate/httpd"
	"github.com/quorate-db/quorate/internal/pki"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/metrics"
	"github.com/quorate-db/quorate/raftnode/peer"
	"github.com/quorate-db/quorate/store/engine"
)

// Run runs a node with its listeners until ctx ends, and then stops it in good
// order; or until something fails that a node must not survive.
func Run(ctx context.Context, config Config, log *slog.Logger) error {
	p := &process{config: config, log: log, trail: newTrail()}
	p.meter = p.newMetrics()
	if err := p.secure(); err != nil {
		return err
	}
	listeners, err := p.listen(ctx)
	if err != nil {
		return err
	}
	defer p.follow(ctx)()
	node, err := Open(ctx, config, World{
		FS:     engine.DiskFS(),
		OnDisk: true,
		Mesh:   p.mesh(listeners.peer),
		Now:    time.Now,
		Logger: log,
		Hooks:  hooksOf(p.meter),
	})
	if err != nil {
		return errors.Join(err, listeners.close())
	}
	p.node = node
	return p.serve(ctx, listeners.http)
}

// process is a node with its HTTP edge.
type process struct {
	config Config
	log    *slog.Logger
	meter  *metrics.Metrics
	ring   *pki.Keyring        // nil: there is no cluster secret
	issued *pki.Issued         // nil: there are no certificates for traffic between nodes
	webTLS *tls.Config         // nil: clients are served over plain HTTP
	looks  []func()            // at files that may change
	terms  []func() []pki.Term // of those that hold certificates

	webHosts []string // names and addresses in the cluster's certificate for clients

	node  *Node
	trail *trail // of audit logs
}

type listeners struct{ http, peer net.Listener }

func (l listeners) close() error { return errors.Join(l.http.Close(), ignoreClosed(l.peer.Close())) }

// ignoreClosed forgives closing a listener that the mesh has closed already.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// listen takes both ports before anything is written to disk, so that a port in
// use is a clear error and nothing else.
func (p *process) listen(ctx context.Context) (listeners, error) {
	var lc net.ListenConfig
	h, err := lc.Listen(ctx, "tcp", p.config.HTTP.Listen)
	if err != nil {
		return listeners{}, fmt.Errorf("--http-listen: %w", err)
	}
	l, err := lc.Listen(ctx, "tcp", p.config.Peer.Listen)
	if err != nil {
		return listeners{}, errors.Join(fmt.Errorf("--peer-listen: %w", err), h.Close())
	}
	return listeners{h, l}, nil
}

// mesh gives what makes the TCP mesh on a listener.
func (p *process) mesh(l net.Listener) func(*Identity, func(kv.NodeID) (string, bool), func(map[kv.NodeID]string)) (Mesh, error) {
	return func(id *Identity, lookup func(kv.NodeID) (string, bool), learn func(map[kv.NodeID]string)) (Mesh, error) {
		hooks := hooksOf(p.meter).Peer
		told := hooks.Peer
		hooks.Peer = func(info peer.PeerInfo) {
			learn(map[kv.NodeID]string{info.ID: info.Advertise})
			if told != nil {
				told(info)
			}
		}
		o := peer.Options{
			Self:      id.Node(),
			ClusterID: id.ClusterID,
			Advertise: p.config.Peer.Advertise,
			Listener:  l,
			Directory: lookup,
			Logger:    p.log,
			Hooks:     hooks,
		}
		var err error
		if o.Security, err = p.peerSecurity(id.Node()); err != nil {
			return nil, err
		}
		m, err := peer.New(o)
		if err != nil {
			return nil, err
		}
		m.Handle(peer.MethodAudit, p.trail.onAsked)
		return m, nil
	}
}

// serve runs the HTTP edge until ctx ends or the node must, then stops both: the
// edge first, while the node can still answer what is under way.
func (p *process) serve(ctx context.Context, l net.Listener) error {
	guard, err := p.guard()
	if err != nil {
		closing, cancel := context.WithTimeout(ctx, p.config.Timing.ShutdownWait)
		defer cancel()
		return errors.Join(err, l.Close(), p.node.Close(closing))
	}
	defer guard.close()
	edge := httpd.New(httpd.Options{
		Admin:   admin{p.node.Control(), p.node, p.ends},
		Access:  guard.access(),
		Tokens:  p.node.Control(),
		Audit:   guard.trail(),
		Data:    p.node.Router(),
		Cluster: clusterViews{p.node.Control()},
		Health:  health{p.node},
		Metrics: p.meter.Handler(),
		Hooks:   guard.hooks(hooksOf(p.meter).HTTP),
		Logger:  p.node.log,
		Release: p.config.Release,
		TLS:     p.webTLS,
		Self:    p.node.Identity().Node(),
		Limits:  p.config.Clients.limits(),
	})
	p.meter.Watch(func() metrics.Snapshot {
		s := snapshot(p.node, edge)
		if p.ring != nil {
			s.Secrets = p.ring.IDs()
		}
		for _, term := range p.ends() {
			s.Certificates = append(s.Certificates, metrics.Certificate{Use: string(term.Use), Begin: term.Begin, End: term.End})
		}
		return s
	})
	served := make(chan error, 1)
	go func() { served <- edge.Serve(l) }()
	p.log.Info("listening", "http", l.Addr().String(), "peer", p.config.Peer.Listen, "name", p.node.name(), "node", p.node.Identity().Node())

	var failure error
	select {
	case <-ctx.Done():
		p.log.Info("stopping")
	case failure = <-p.node.Fatal():
		p.log.Error("cannot go on", "err", failure)
	case failure = <-p.node.Control().Failed():
		p.log.Error("cannot be part of the cluster", "err", failure)
	case failure = <-served:
		served <- nil
	}
	return errors.Join(failure, p.stop(context.WithoutCancel(ctx), edge, served))
}

// stopGrace is how long a node may take to stop beyond what it was given for
// requests and transfers.
const stopGrace = 10 * time.Second

// stop stops the edge and the node. A node that hangs, on a disk that does not
// answer for instance, is left: everything acknowledged is on disk, so its end is
// as good as a crash's.
func (p *process) stop(ctx context.Context, edge *httpd.Server, served <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.Timing.ShutdownWait)
	defer cancel()
	stopped := make(chan error, 1)
	go func() {
		edgeErr := edge.Shutdown(ctx)
		serveErr := <-served
		if errors.Is(serveErr, http.ErrServerClosed) {
			serveErr = nil
		}
		stopped <- errors.Join(edgeErr, serveErr, p.node.Close(ctx))
	}()
	late := time.NewTimer(p.config.Timing.ShutdownWait + stopGrace)
	defer late.Stop()
	select {
	case err := <-stopped:
		return err
	case <-late.C:
		return errors.New("the node did not stop in time; nothing that was acknowledged is lost")
	}
}
