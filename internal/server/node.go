package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/raftnode"
	"github.com/quorate-db/quorate/raftnode/peer"
	"github.com/quorate-db/quorate/raftnode/raftlog"
	"github.com/quorate-db/quorate/router"
	"github.com/quorate-db/quorate/store"
	"github.com/quorate-db/quorate/store/engine"
)

// Mesh is a peer mesh with a life.
type Mesh interface {
	peer.Mesh
	Start() error
	Close()
}

// World is what a node stands on. Production uses the operating system; the
// simulator brings its own.
type World struct {
	FS engine.FS
	// OnDisk tells that FS is the operating system's, so that bolt files can be used.
	OnDisk bool
	// Mesh makes the node's mesh once its identity is known.
	Mesh func(id *Identity, book func(kv.NodeID) (string, bool), learn func(map[kv.NodeID]string)) (Mesh, error)
	Now  func() time.Time
	// Steady is a clock that measures intervals and never jumps. Nil: Now, whose times
	// then have to carry a monotonic reading, as those of time.Now do.
	Steady func() time.Time
	Logger *slog.Logger
	Hooks  Hooks
	// Timing is what Config.Timing does not say; zero fields take the defaults.
	Timing raftnode.Timing
	// BeforeLogWrite, if not nil, is called before each write to the shared Raft log:
	// a simulated disk takes its time there.
	BeforeLogWrite func()
}

// Node is one running node without its HTTP edge.
type Node struct {
	config Config
	world  World
	log    *slog.Logger

	lock     io.Closer
	identity *Identity
	book     *addressBook
	mesh     Mesh
	raftLog  *raftlog.Shared
	logs     *raftnode.NodeLogs
	db       *store.DB
	disk     *diskUsage
	machine  *placement.Machine
	host     *raftnode.Host
	control  *placement.Control
	router   *router.Router
	sweeper  *sweeper

	loads        *loads
	snapshotRate *rate.Limiter
	shapes       *shapes

	fatal chan error // first reason to end the process; one slot
}

const lockFile = "LOCK"

// Open starts a node and returns when it runs; joining a cluster goes on behind
// (Joined). On error nothing is left running.
func Open(ctx context.Context, config Config, world World) (*Node, error) {
	n := &Node{
		config: config, world: world, log: world.Logger, fatal: make(chan error, 1),
		loads: &loads{}, snapshotRate: newSnapshotRate(),
	}
	if err := n.open(ctx); err != nil {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), config.Timing.ShutdownWait)
		defer cancel()
		return nil, errors.Join(err, n.Close(closeCtx))
	}
	return n, nil
}

func (n *Node) open(ctx context.Context) error {
	if err := n.openDataDir(); err != nil {
		return err
	}
	if err := n.openStorage(); err != nil {
		return err
	}
	var err error
	n.mesh, err = n.world.Mesh(n.identity, n.book.lookup, n.book.learn)
	if err != nil {
		return err
	}
	if n.host, err = raftnode.Open(ctx, n.hostOptions()); err != nil {
		return fmt.Errorf("start replicas: %w", err)
	}
	n.shapes.start(n.host, n.db, n.machine.State, n.logs.Hosted)
	if err := n.adoptChildren(); err != nil {
		return err
	}
	if n.control, err = placement.New(n.controlOptions()); err != nil {
		return err
	}
	n.control.Register()
	n.router = router.New(router.Options{
		Self:   n.identity.Node(),
		Local:  localShards{n.host, n.loads},
		Map:    n.shapes.shards,
		Peers:  routerPeers{n.mesh},
		Now:    n.world.Now,
		Logger: n.log,
		Hooks:  n.world.Hooks.Router,
	})
	n.router.Register()
	if err := n.mesh.Start(); err != nil {
		return fmt.Errorf("peer port: %w", err)
	}
	n.control.Start()
	n.sweeper = newSweeper(n.host, n.config.Timing.Retention, n.log)
	n.sweeper.start()
	return nil
}

// makeDataDir makes the data directory so that no crash takes it away again with
// all that is synced inside of it.
func makeDataDir(fs engine.FS, dir string) error {
	parent := fs.PathDir(dir)
	if err := engine.MkdirSynced(fs, parent); err != nil {
		return err
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return engine.SyncDir(fs, parent)
}

func (n *Node) openDataDir() error {
	fs, dir := n.world.FS, n.config.DataDir
	if err := makeDataDir(fs, dir); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	lock, err := fs.Lock(fs.PathJoin(dir, lockFile))
	if err != nil {
		return fmt.Errorf("data directory %s is in use by another process: %w", dir, err)
	}
	n.lock = lock
	if n.identity, err = openIdentity(fs, dir); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	n.log = n.log.With("name", n.name())
	if n.world.OnDisk {
		keepPrivate(dir, n.log)
	}
	n.book, err = openAddressBook(fs, dir, n.log)
	return err
}

// name is what the logs call this node.
func (n *Node) name() string {
	if n.config.Name != "" {
		return n.config.Name
	}
	return n.identity.Node().String()
}

func (n *Node) openStorage() error {
	fs, dir := n.world.FS, n.config.DataDir
	var err error
	n.raftLog, err = raftlog.OpenShared(fs, fs.PathJoin(dir, "raftlog"), raftlog.Options{
		BeforeCommit: n.world.BeforeLogWrite,
		Logger:       n.log,
		OnFatal:      func(err error) { n.die(fmt.Errorf("raft log: %w", err)) },
		OnSync:       n.world.Hooks.LogSync,
	})
	if err != nil {
		return fmt.Errorf("raft log: %w", err)
	}
	boltDir := ""
	if n.world.OnDisk {
		boltDir = fs.PathJoin(dir, "bolt")
		if err := engine.MkdirSynced(fs, boltDir); err != nil {
			return fmt.Errorf("raft log: %w", err)
		}
	}
	n.logs = raftnode.NewNodeLogs(n.raftLog, boltDir)
	n.machine = placement.NewMachine()
	n.shapes = newShapes(n.identity.Node(), n.dataLog(), placement.NewMap(n.machine), n.loads, n.log)
	n.db, err = store.Open(store.Options{
		Dir:     fs.PathJoin(dir, "store"),
		FS:      fs,
		Logger:  n.log,
		OnFatal: func(err error) { n.die(fmt.Errorf("store: %w", err)) },
		Node:    n.identity.Node(),
		Hosted:  n.logs.Hosted,
		OnShape: n.shapes.note,
	})
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := n.reconcile(); err != nil {
		return fmt.Errorf("end what was left half done: %w", err)
	}
	n.disk = diskOf(n)
	return nil
}

// die tells whoever waits on Fatal that the process must end. Only the first
// reason counts.
func (n *Node) die(err error) {
	select {
	case n.fatal <- err:
	default:
	}
}

// Fatal gives at most one error after which the process has to end: storage
// failed, or the node can never be part of the cluster as it was started.
func (n *Node) Fatal() <-chan error { return n.fatal }

// Identity gives who the node is.
func (n *Node) Identity() *Identity { return n.identity }

// Router gives the data plane.
func (n *Node) Router() *router.Router { return n.router }

// Control gives the control plane.
func (n *Node) Control() *placement.Control { return n.control }

// Actions gives what the control plane does to shards through this node.
func (n *Node) Actions() placement.Actions { return controlActions{n} }

// Host gives the node's replicas.
func (n *Node) Host() *raftnode.Host { return n.host }

// Store gives the node's database.
func (n *Node) Store() *store.DB { return n.db }

// Meta gives the meta shard's state machine on this node.
func (n *Node) Meta() *placement.Machine { return n.machine }

// Close stops the node and waits for it. Leaders are handed over while ctx
// lasts; a context that has ended stops the node as fast as a crash would.
func (n *Node) Close(ctx context.Context) error {
	var errs []error
	if n.sweeper != nil {
		n.sweeper.close()
	}
	if n.control != nil {
		n.control.Close()
	}
	if n.shapes != nil {
		n.shapes.close()
	}
	if n.host != nil {
		// Hands leadership over, for which the mesh has to be there.
		errs = append(errs, n.host.Close(ctx))
	}
	if n.router != nil {
		n.router.Close()
	}
	if n.mesh != nil {
		n.mesh.Close()
	}
	if n.db != nil {
		errs = append(errs, n.db.Close())
	}
	if n.raftLog != nil {
		errs = append(errs, n.raftLog.Close())
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Close())
	}
	return errors.Join(errs...)
}
