package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Operation is a change of the cluster that takes longer than a request. It goes on
// after the call that began it, whoever leads the meta shard.
type Operation struct {
	ID      uint64            `json:"id"`
	Kind    kv.OperationKind  `json:"kind"`
	State   kv.OperationState `json:"state"`
	Target  string            `json:"target"`          // in words
	Node    string            `json:"node,omitempty"`  // the id of the node that it is about
	Shard   kv.ShardID        `json:"shard,omitempty"` // that it is about
	Started time.Time         `json:"started"`
	Updated time.Time         `json:"updated"`
	// Done of Total steps are done; Total 0 = not known yet.
	Done        int64  `json:"done"`
	Total       int64  `json:"total"`
	Detail      string `json:"detail,omitempty"` // what it is doing or waiting for
	Error       string `json:"error,omitempty"`  // why it failed or was cancelled
	Cancellable bool   `json:"cancellable"`
}

// Over reports whether nothing more will come of the operation.
func (o *Operation) Over() bool { return o.State != kv.OperationRunning }

// Problem is something that is wrong now, with what helps.
type Problem struct {
	Code     string      `json:"code"`
	Severity kv.Severity `json:"severity"`
	Summary  string      `json:"summary"`
	Help     string      `json:"help"`
	Node     string      `json:"node,omitempty"`
	Shard    kv.ShardID  `json:"shard,omitempty"`
	Since    time.Time   `json:"since,omitzero"`
}

// Event is something that happened in the cluster.
type Event struct {
	Seq    uint64     `json:"seq"` // grows by one with each
	Time   time.Time  `json:"time"`
	Kind   string     `json:"kind"`
	Node   string     `json:"node,omitempty"`
	Shard  kv.ShardID `json:"shard,omitempty"`
	Detail string     `json:"detail"`
}

// PlannedStep is one step of a rebalance.
type PlannedStep struct {
	Kind   string     `json:"kind"`
	Shard  kv.ShardID `json:"shard,omitempty"`
	From   string     `json:"from,omitempty"`
	To     string     `json:"to,omitempty"`
	Bytes  int64      `json:"bytes"` // to be copied
	Reason string     `json:"reason"`
}

// Rebalancing is the answer to Rebalance.
type Rebalancing struct {
	DryRun    bool          `json:"dry_run"`
	Steps     []PlannedStep `json:"steps"`
	Operation *Operation    `json:"operation,omitempty"` // nil: no steps are being taken
}

// Duration is a time.Duration that is text in JSON, such as "5m".
type Duration time.Duration

// String writes a duration as people do: 5m, not 5m0s.
func (d Duration) String() string { return kv.DurationText(time.Duration(d)) }

// MarshalJSON writes it.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads it.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	parsed, err := time.ParseDuration(text)
	*d = Duration(parsed)
	return err
}

// ClusterConfig holds the settings of the cluster; see kv.ClusterConfig.
type ClusterConfig struct {
	Revision          uint64   `json:"revision"`
	ReplicationFactor int      `json:"replication_factor"`
	DeadGrace         Duration `json:"dead_grace"`
	SplitBytes        int64    `json:"split_bytes"`
	SplitLoad         float64  `json:"split_load"`
	MergeBytes        int64    `json:"merge_bytes"`
	AutoBalance       bool     `json:"auto_balance"`
	LeaderZone        string   `json:"leader_zone"`
	SnapshotRate      int64    `json:"snapshot_rate"`
	MovesPerNode      int      `json:"moves_per_node"`
	MovesPerCluster   int      `json:"moves_per_cluster"`
}

// ConfigChange names the settings to change; nil ones stay.
type ConfigChange struct {
	ReplicationFactor *int      `json:"replication_factor,omitempty"`
	DeadGrace         *Duration `json:"dead_grace,omitempty"`
	SplitBytes        *int64    `json:"split_bytes,omitempty"`
	SplitLoad         *float64  `json:"split_load,omitempty"`
	MergeBytes        *int64    `json:"merge_bytes,omitempty"`
	AutoBalance       *bool     `json:"auto_balance,omitempty"`
	LeaderZone        *string   `json:"leader_zone,omitempty"`
	SnapshotRate      *int64    `json:"snapshot_rate,omitempty"`
	MovesPerNode      *int      `json:"moves_per_node,omitempty"`
	MovesPerCluster   *int      `json:"moves_per_cluster,omitempty"`
}

// control makes a call that changes the cluster. The control plane remembers no
// idempotency keys, so only what may be done twice is sent again when no answer came.
func (c *Client) control(ctx context.Context, method, target string, twice bool, into any) error {
	req := request{method: method, target: target, accept: "application/json", control: true, twice: twice}
	return c.controlDo(ctx, &req, into)
}

func (c *Client) controlDo(ctx context.Context, req *request, into any) error {
	resp, err := c.do(ctx, req)
	if err != nil || into == nil {
		return err
	}
	if err := decodeBody(&resp, into); err != nil {
		return c.garbled(req, &resp, err)
	}
	return nil
}

func nodePath(node string) string { return "/v1/nodes/" + url.PathEscape(node) }

func shardPath(id kv.ShardID) string { return "/v1/shards/" + id.String() }

func operationPath(id uint64) string { return "/v1/operations/" + strconv.FormatUint(id, 10) }

// Drain takes the leaders away from a node, which keeps its replicas; on false lets
// it have some again. Nodes are named by id or name here and below.
func (c *Client) Drain(ctx context.Context, node string, on bool) error {
	verb := "/drain"
	if !on {
		verb = "/undrain"
	}
	return c.control(ctx, http.MethodPost, nodePath(node)+verb, true, nil)
}

// RemoveNode moves a node's replicas away and then forgets it for ever.
func (c *Client) RemoveNode(ctx context.Context, node string) (Operation, error) {
	var o Operation
	err := c.control(ctx, http.MethodDelete, nodePath(node), false, &o)
	return o, err
}

// SplitShard splits a shard at a key, or where its leader likes if key is "".
func (c *Client) SplitShard(ctx context.Context, shard kv.ShardID, key string) (Operation, error) {
	target := shardPath(shard) + "/split"
	if key != "" {
		var q queryString
		q.add("key", key)
		target += "?" + q.String()
	}
	var o Operation
	err := c.control(ctx, http.MethodPost, target, false, &o)
	return o, err
}

// MergeShard merges a shard with its right neighbour.
func (c *Client) MergeShard(ctx context.Context, shard kv.ShardID) (Operation, error) {
	var o Operation
	err := c.control(ctx, http.MethodPost, shardPath(shard)+"/merge", false, &o)
	return o, err
}

// MoveReplica moves a shard's replica from one node to another.
func (c *Client) MoveReplica(ctx context.Context, shard kv.ShardID, from, to string) (Operation, error) {
	target := shardPath(shard) + "/move?from=" + url.QueryEscape(from) + "&to=" + url.QueryEscape(to)
	var o Operation
	err := c.control(ctx, http.MethodPost, target, false, &o)
	return o, err
}

// TransferLeader hands a shard's leadership to the replica on a node.
func (c *Client) TransferLeader(ctx context.Context, shard kv.ShardID, to string) error {
	return c.control(ctx, http.MethodPost, shardPath(shard)+"/transfer?to="+url.QueryEscape(to), true, nil)
}

// Rebalance evens out replicas and load, or with dryRun only tells how.
func (c *Client) Rebalance(ctx context.Context, dryRun bool) (Rebalancing, error) {
	var r Rebalancing
	err := c.control(ctx, http.MethodPost, "/v1/rebalance?dry_run="+strconv.FormatBool(dryRun), dryRun, &r)
	return r, err
}

// Problems tells what is wrong, the worst first.
func (c *Client) Problems(ctx context.Context) ([]Problem, error) {
	var body struct {
		Problems []Problem `json:"problems"`
	}
	err := c.getJSON(ctx, "/v1/problems", &body)
	return body.Problems, err
}

// Events gives up to limit events after a sequence number, the oldest first; limit 0
// = as many as the server likes. If there are none it waits for them, for at most
// wait, and gives none then: call again.
func (c *Client) Events(ctx context.Context, after uint64, limit int, wait time.Duration) ([]Event, error) {
	target := "/v1/events?after=" + strconv.FormatUint(after, 10)
	if limit > 0 {
		target += "&limit=" + strconv.Itoa(limit)
	}
	if wait > 0 {
		target += "&wait=" + wait.String()
	}
	var body struct {
		Events []Event `json:"events"`
	}
	err := c.getJSON(ctx, target, &body)
	return body.Events, err
}

// Operations gives those under way and the last that ended, the newest first.
func (c *Client) Operations(ctx context.Context) ([]Operation, error) {
	var body struct {
		Operations []Operation `json:"operations"`
	}
	err := c.getJSON(ctx, "/v1/operations", &body)
	return body.Operations, err
}

// Operation gives one.
func (c *Client) Operation(ctx context.Context, id uint64) (Operation, error) {
	var o Operation
	err := c.getJSON(ctx, operationPath(id), &o)
	return o, err
}

// CancelOperation ends one before its end, where that can be.
func (c *Client) CancelOperation(ctx context.Context, id uint64) (Operation, error) {
	var o Operation
	err := c.control(ctx, http.MethodDelete, operationPath(id), false, &o)
	return o, err
}

// ClusterConfig gives the settings of the cluster.
func (c *Client) ClusterConfig(ctx context.Context) (ClusterConfig, error) {
	var cfg ClusterConfig
	err := c.getJSON(ctx, "/v1/config", &cfg)
	return cfg, err
}

// SetClusterConfig replaces the settings if their revision is still the one in cfg.
func (c *Client) SetClusterConfig(ctx context.Context, cfg ClusterConfig) (ClusterConfig, error) {
	return c.putConfig(ctx, http.MethodPut, cfg, cfg.Revision)
}

// ChangeClusterConfig changes some settings; revision 0 = whatever the others are.
func (c *Client) ChangeClusterConfig(ctx context.Context, change ConfigChange, revision uint64) (ClusterConfig, error) {
	return c.putConfig(ctx, http.MethodPatch, change, revision)
}

func (c *Client) putConfig(ctx context.Context, method string, body any, revision uint64) (ClusterConfig, error) {
	var cfg ClusterConfig
	b, err := json.Marshal(body)
	if err != nil {
		return cfg, fmt.Errorf("client: encode the settings: %w", err)
	}
	req := request{method: method, target: "/v1/config", body: b, contentType: "application/json", accept: "application/json", control: true}
	if revision > 0 {
		req.ifMatch = `"` + strconv.FormatUint(revision, 10) + `"`
	} else {
		req.twice = true
	}
	err = c.controlDo(ctx, &req, &cfg)
	return cfg, err
}
