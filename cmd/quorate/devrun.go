package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/localcluster"
)

// devNodesMax bounds the nodes of a cluster, those that are gone too: peers use the
// ports devPeerPortOffset above.
const devNodesMax = devPeerPortOffset

// devRemovalPause is the time between two looks at whether a dead node was removed.
const devRemovalPause = 2 * time.Second

// devRecord is what a data directory remembers of its cluster, in dev.json: nodes
// that were added have to be started again, those that were removed must not be.
type devRecord struct {
	Founders int             `json:"founders"`
	Nodes    []devRecordNode `json:"nodes"` // all, the founders first
}

type devRecordNode struct {
	Zone    string `json:"zone,omitempty"`
	Removed bool   `json:"removed,omitempty"`
}

// devCluster is a running `quorate dev`.
type devCluster struct {
	o       devOptions
	dir     string
	binary  string
	cluster *localcluster.Cluster
	trust   *tls.Config // for clients of its nodes; nil: they speak plain HTTP
	out     io.Writer   // the table
	talk    io.Writer
	token   devToken

	adding sync.Mutex // one node is added at a time
	mu     sync.Mutex
	zones  map[int]string // of the nodes that were added; guarded by mu, as is dev.json
	deaths chan int
	tasks  sync.WaitGroup
}

// newDevCluster describes the cluster that the record in its directory tells of, or
// a new one.
func newDevCluster(o devOptions, dir, binary string, out, talk io.Writer) (*devCluster, error) {
	d := &devCluster{o: o, dir: dir, binary: binary, out: out, talk: talk, zones: map[int]string{}, deaths: make(chan int), token: devToken{wait: devDeniedWait}}
	record := devRecord{Founders: o.nodes}
	data, err := os.ReadFile(d.recordPath())
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		record = devRecord{}
		if err := json.Unmarshal(data, &record); err != nil || record.Founders < 1 || record.Founders > len(record.Nodes) || len(record.Nodes) > devNodesMax {
			return nil, fmt.Errorf("%s is not what it should be (%v): use another --data-dir", d.recordPath(), err)
		}
		if n := len(record.Nodes); o.nodesGiven && n > o.nodes {
			fmt.Fprintf(talk, "the cluster in %s has %d nodes already\n", dir, n)
		}
	}
	secretArgs, err := d.secretArgs()
	if err != nil {
		return nil, err
	}
	tlsArgs, err := d.tlsArgs()
	if err != nil {
		return nil, err
	}
	d.cluster = localcluster.New(localcluster.Options{
		Binary:            binary,
		Nodes:             record.Founders,
		HTTPPort:          o.port,
		PeerPort:          o.port + devPeerPortOffset,
		DataDir:           dir,
		Shards:            o.shards,
		ReplicationFactor: o.replicationFactor,
		Zones:             o.zones,
		HTTPS:             o.tls,
		ExtraArgs:         slices.Concat(secretArgs, tlsArgs, d.authArgs(), o.foundingArgs),
	})
	for i := d.cluster.Count(); i < len(record.Nodes); i++ {
		d.addNode(record.Nodes[i].Zone)
	}
	for i, n := range record.Nodes {
		if n.Removed {
			d.cluster.Retire(i + 1)
		}
	}
	for i := d.cluster.Count(); i < o.nodes && o.nodesGiven; i++ {
		d.addNode("")
	}
	return d, d.remember()
}

// addNode describes one more node; its zone is the next in turn unless it is given.
func (d *devCluster) addNode(zone string) int {
	if zone == "" {
		return d.cluster.Add()
	}
	i := d.cluster.Add("--zone", zone)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.zones[i] = zone
	return i
}

// zone gives the zone of node i, "" = none.
func (d *devCluster) zone(i int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if z := d.zones[i]; z != "" || len(d.o.zones) == 0 {
		return z
	}
	return d.o.zones[(i-1)%len(d.o.zones)]
}

func (d *devCluster) recordPath() string { return filepath.Join(d.dir, "dev.json") }

// remember writes the record, whole or not at all.
func (d *devCluster) remember() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	record := devRecord{Founders: d.cluster.Founders()}
	for i := 1; i <= d.cluster.Count(); i++ {
		record.Nodes = append(record.Nodes, devRecordNode{Zone: d.zones[i], Removed: d.cluster.Retired(i)})
	}
	data, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	part := d.recordPath() + ".part"
	if err := os.WriteFile(part, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(part, d.recordPath())
}

// run starts all nodes, waits until they serve, and then looks after them until ctx
// ends.
func (d *devCluster) run(ctx context.Context) error {
	life, end := context.WithCancel(ctx)
	defer d.tasks.Wait()
	control, err := d.listen(life)
	if err != nil {
		fmt.Fprintf(d.talk, "'quorate dev add-node' will not work: %v\n", err)
		control = &devControl{}
	}
	defer control.close()
	defer end()
	if err := d.cluster.StartAll(); err != nil {
		return err
	}
	if err := d.printTable(d.live()...); err != nil {
		return err
	}
	summary, err := d.waitReady(ctx)
	if ctx.Err() != nil {
		return nil // stopped while it was starting
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "cluster ready: %d nodes, %d shards, replication factor %d, %s\n",
		summary.NodesAlive, summary.Shards, summary.ReplicationFactor, d.cluster.Endpoint(d.live()[0]))
	d.tellTrust()
	d.showToken()
	for _, i := range d.live() {
		d.watch(life, i)
	}
	control.serve()
	d.tellDeaths(life)
	return nil
}

// live gives the numbers of the nodes that are not retired.
func (d *devCluster) live() []int {
	var out []int
	for i := 1; i <= d.cluster.Count(); i++ {
		if !d.cluster.Retired(i) {
			out = append(out, i)
		}
	}
	return out
}

func (d *devCluster) printTable(nodes ...int) error {
	return printDevTable(d.out, d.rows(nodes...))
}

// devRow is a node as the table shows it and as add-node is told.
type devRow struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	Zone string `json:"zone,omitempty"`
	HTTP string `json:"http"`
	Log  string `json:"log"`
}

func (d *devCluster) rows(nodes ...int) []devRow {
	var out []devRow
	for _, i := range nodes {
		out = append(out, devRow{localcluster.Name(i), d.cluster.PID(i), d.zone(i), d.cluster.Endpoint(i), d.cluster.LogPath(i)})
	}
	return out
}

func printDevTable(out io.Writer, rows []devRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	zones := false
	for _, r := range rows {
		zones = zones || r.Zone != ""
	}
	heading, format := "NODE\tPID\tHTTP\tLOG", "%s\t%d\t%s\t%s\n"
	if zones {
		heading = "NODE\tPID\tHTTP\tLOG\tZONE"
	}
	fmt.Fprintln(w, heading)
	for _, r := range rows {
		line := fmt.Sprintf(format, r.Name, r.PID, r.HTTP, r.Log)
		if zones {
			line = strings.TrimSuffix(line, "\n") + "\t" + r.Zone + "\n"
		}
		fmt.Fprint(w, line)
	}
	return w.Flush()
}

// waitReady waits until every node is ready and every shard has a leader.
func (d *devCluster) waitReady(ctx context.Context) (client.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, devStartTimeout)
	defer cancel()
	endpoints := d.cluster.Endpoints()
	if len(endpoints) == 0 {
		return client.Cluster{}, fmt.Errorf("all nodes of the cluster in %s were removed: use another --data-dir", d.dir)
	}
	if err := d.waitToken(ctx); err != nil {
		return client.Cluster{}, err
	}
	c, err := d.client(0)
	if err != nil {
		return client.Cluster{}, err
	}
	defer c.Close()
	for {
		summary, err := d.pollReady(ctx, c)
		if err == nil || !d.letGoRemoved(ctx) {
			return summary, err
		}
	}
}

// pollReady waits until every node is ready and every shard has a leader, or one dies.
func (d *devCluster) pollReady(ctx context.Context, c *client.Client) (client.Cluster, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	var summary client.Cluster
	var denied time.Time // when the token was first refused
	endpoints := d.cluster.Endpoints()
	err := d.cluster.Poll(ctx, 100*time.Millisecond, func(ctx context.Context) (err error) {
		for _, endpoint := range endpoints {
			if err := c.Ready(ctx, endpoint); err != nil {
				return fmt.Errorf("%s: %w", endpoint, err)
			}
		}
		summary, err = c.Cluster(ctx)
		if client.IsDenied(err) {
			if denied.IsZero() {
				denied = time.Now()
			} else if time.Since(denied) > d.token.wait {
				giveUp(d.tokenDenied(err))
			}
		}
		if err != nil {
			return err
		}
		if summary.NodesAlive < len(endpoints) || summary.Shards == 0 || summary.ShardsWithLeader < summary.Shards {
			return fmt.Errorf("%d of %d nodes alive, %d of %d shards have a leader",
				summary.NodesAlive, len(endpoints), summary.ShardsWithLeader, summary.Shards)
		}
		return nil
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, ctx.Err()) {
		err = cause
	}
	return summary, err
}

// letGoRemoved lets those go of the nodes that have ended that were removed from the
// cluster, and tells whether there are any: dev may have been stopped before it noticed.
// That the others do not know a node is not enough at a start: it may never have joined.
func (d *devCluster) letGoRemoved(ctx context.Context) (found bool) {
	for _, i := range d.live() {
		if !d.cluster.Running(i) && strings.Contains(d.cluster.LogTail(i, 1), "was removed from the cluster") && d.removed(ctx, i) {
			d.letGo(i)
			found = true
		}
	}
	return found
}

// watch tells of the end of node i, until ctx ends.
func (d *devCluster) watch(ctx context.Context, i int) {
	done := d.cluster.Done(i)
	d.tasks.Go(func() {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
		select {
		case d.deaths <- i:
		case <-ctx.Done():
		}
	})
}

// tellDeaths says, until ctx ends, when a node has died and how to start it again. One
// that was removed from the cluster is let go.
func (d *devCluster) tellDeaths(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case i := <-d.deaths:
			if d.removed(ctx, i) {
				d.letGo(i)
				continue
			}
			fmt.Fprintf(d.talk, "%s ended: %v. Start it again with:\n  %s %s\n",
				localcluster.Name(i), d.cluster.ExitError(i), shellWords(d.binary), shellWords(d.cluster.Args(i)...))
			d.tasks.Go(func() { d.awaitRemoval(ctx, i) })
		}
	}
}

// letGo notes that a node was removed from the cluster.
func (d *devCluster) letGo(i int) {
	d.cluster.Retire(i)
	fmt.Fprintf(d.talk, "%s was removed from the cluster\n", localcluster.Name(i))
	if err := d.remember(); err != nil {
		fmt.Fprintf(d.talk, "cannot note that: %v\n", err)
	}
}

// awaitRemoval looks now and then whether a node that ended has been removed: it may
// be killed first and removed then.
func (d *devCluster) awaitRemoval(ctx context.Context, i int) {
	for pause(ctx, devRemovalPause) {
		if d.removed(ctx, i) {
			d.letGo(i)
			return
		}
	}
}

// removed asks the others whether node i is no more in the cluster.
func (d *devCluster) removed(ctx context.Context, i int) bool {
	c, err := d.client(3 * time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_, err = c.Node(ctx, localcluster.Name(i))
	return client.IsNotFound(err)
}

// add starts one more node and waits until it serves.
func (d *devCluster) add(ctx, life context.Context, zone string) (devRow, error) {
	d.adding.Lock()
	defer d.adding.Unlock()
	if d.cluster.Count() >= devNodesMax {
		return devRow{}, fmt.Errorf("the cluster has had %d nodes, which is the most", devNodesMax)
	}
	c, err := d.client(0)
	if err != nil {
		return devRow{}, err
	}
	defer c.Close()
	i := d.addNode(zone)
	if err = d.cluster.Start(i); err == nil {
		err = d.cluster.PollNode(ctx, i, 100*time.Millisecond, func(ctx context.Context) error {
			return c.Ready(ctx, d.cluster.Endpoint(i))
		})
	}
	if err != nil && !d.cluster.Running(i) {
		d.cluster.Retire(i)
		return devRow{}, errors.Join(err, d.remember())
	}
	// It runs, ready or not: it is ours to stop, and part of the cluster.
	d.watch(life, i)
	if err := errors.Join(err, d.remember()); err != nil {
		return devRow{}, err
	}
	row := d.rows(i)[0]
	fmt.Fprintf(d.out, "%s added, pid %d, %s\n", row.Name, row.PID, row.HTTP)
	return row, nil
}
