package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Node is a node as the cluster knows it.
type Node struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Zone        string    `json:"zone,omitempty"`
	HTTPAddress string    `json:"http_address"`
	PeerAddress string    `json:"peer_address"`
	Release     string    `json:"release,omitempty"`
	Alive       bool      `json:"alive"`
	LastSeen    time.Time `json:"last_seen,omitzero"`
	Draining    bool      `json:"draining"`
	MetaRole    kv.Role   `json:"meta_role,omitempty"`
	Replicas    int       `json:"replicas"`
	Leaders     int       `json:"leaders"`
	DiskBytes   int64     `json:"disk_bytes"`
	DiskFree    int64     `json:"disk_free"` // 0 = not reported
	Bytes       int64     `json:"bytes"`     // of the data replicas on it

	State           kv.NodeState `json:"state"`
	ReadsPerSecond  float64      `json:"reads_per_second"`
	WritesPerSecond float64      `json:"writes_per_second"`
}

// Replica is one replica of a shard.
type Replica struct {
	Node         string  `json:"node"`
	Incarnation  uint64  `json:"incarnation"`
	Voter        bool    `json:"voter"`
	Role         kv.Role `json:"role,omitempty"` // "" = not reported
	AppliedIndex uint64  `json:"applied_index"`
	Failure      string  `json:"failure,omitempty"`
}

// Shard is a shard as the cluster knows it.
type Shard struct {
	ID         kv.ShardID `json:"id"`
	Generation uint64     `json:"generation"`
	Start      string     `json:"start"`  // inclusive; "" = the least key
	End        string     `json:"end"`    // exclusive; "" = no end
	Leader     string     `json:"leader"` // a node's id; "" = none known
	Term       uint64     `json:"term"`
	Replicas   []Replica  `json:"replicas"`
	Bytes      int64      `json:"bytes"`
	Keys       int64      `json:"keys"`

	ReadsPerSecond  float64      `json:"reads_per_second"`
	WritesPerSecond float64      `json:"writes_per_second"`
	Change          *ShardChange `json:"change,omitempty"` // nil = nothing is being done to it
}

// ShardChange is what is being done to a shard.
type ShardChange struct {
	Kind      kv.OperationKind `json:"kind"`
	From      string           `json:"from,omitempty"` // a node's id; "" = a replica is only added
	To        string           `json:"to,omitempty"`   // "" = a replica is only removed
	Operation uint64           `json:"operation,omitempty"`
	Detail    string           `json:"detail,omitempty"`
}

// Cluster sums a cluster up.
type Cluster struct {
	ID                string `json:"id"`
	Nodes             int    `json:"nodes"`
	NodesAlive        int    `json:"nodes_alive"`
	Shards            int    `json:"shards"`
	ShardsWithLeader  int    `json:"shards_with_leader"`
	ReplicationFactor int    `json:"replication_factor"`
	MetaLeader        string `json:"meta_leader"`
}

// Check is one line of a readiness report.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// Nodes lists the nodes.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var body struct {
		Nodes []Node `json:"nodes"`
	}
	err := c.getJSON(ctx, "/v1/nodes", &body)
	return body.Nodes, err
}

// Node gives one node, named by id or name.
func (c *Client) Node(ctx context.Context, node string) (Node, error) {
	var n Node
	err := c.getJSON(ctx, nodePath(node), &n)
	return n, err
}

// Cluster sums the cluster up.
func (c *Client) Cluster(ctx context.Context) (Cluster, error) {
	var body Cluster
	err := c.getJSON(ctx, "/v1/cluster", &body)
	return body, err
}

// Version gives the release of the node that answers.
func (c *Client) Version(ctx context.Context) (string, error) {
	var body struct {
		Release string `json:"release"`
		Version string `json:"version"`
	}
	if err := c.getJSON(ctx, "/v1/version", &body); err != nil {
		return "", err
	}
	return body.Release + body.Version, nil
}

func (c *Client) getJSON(ctx context.Context, target string, into any) error {
	req := request{method: http.MethodGet, target: target, read: true, accept: "application/json"}
	resp, err := c.do(ctx, &req)
	if err != nil {
		return err
	}
	if err := decodeBody(&resp, into); err != nil {
		return c.garbled(&req, &resp, err)
	}
	return nil
}

// Shards lists the shards in the order of their ranges.
func (c *Client) Shards(ctx context.Context) ([]Shard, error) {
	var body struct {
		Shards []wireShard `json:"shards"`
	}
	err := c.getJSON(ctx, "/v1/shards", &body)
	return shardsOf(body.Shards), err
}

// ShardOf gives the shard that holds a key.
func (c *Client) ShardOf(ctx context.Context, key string) (Shard, error) {
	var q queryString
	q.add("key", key)
	var body struct {
		Shards []wireShard `json:"shards"`
	}
	if err := c.getJSON(ctx, "/v1/shards?"+q.String(), &body); err != nil {
		return Shard{}, err
	}
	if len(body.Shards) != 1 {
		return Shard{}, &Error{Code: kv.CodeInternal, Detail: fmt.Sprintf("%d shards hold the key", len(body.Shards))}
	}
	return body.Shards[0].shard(), nil
}

// wireShard is Shard with its bounds as they travel.
type wireShard struct {
	Shard
	ID       decimal `json:"id"`
	StartB64 []byte  `json:"start_b64"`
	EndB64   []byte  `json:"end_b64"`
}

func (w *wireShard) shard() Shard {
	s := w.Shard
	s.ID = kv.ShardID(w.ID)
	if w.StartB64 != nil {
		s.Start = string(w.StartB64)
	}
	if w.EndB64 != nil {
		s.End = string(w.EndB64)
	}
	return s
}

func shardsOf(in []wireShard) []Shard {
	out := make([]Shard, len(in))
	for i := range in {
		out[i] = in[i].shard()
	}
	return out
}

// Ready asks one node whether it is ready to serve, nil = it is. The endpoint
// need not be among the client's own.
func (c *Client) Ready(ctx context.Context, endpoint string) error {
	_, err := c.Readiness(ctx, endpoint)
	return err
}

// Readiness asks one node what it needs to be ready. The checks may be there
// beside an error, which then is the node's "not ready".
func (c *Client) Readiness(ctx context.Context, endpoint string) ([]Check, error) {
	return c.probe(ctx, endpoint, "/readyz?verbose")
}

// Live asks one node whether it is alive, nil = it is.
func (c *Client) Live(ctx context.Context, endpoint string) error {
	_, err := c.probe(ctx, endpoint, "/livez")
	return err
}

// probe makes one attempt at one endpoint.
func (c *Client) probe(ctx context.Context, endpoint, target string) ([]Check, error) {
	scheme, host, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	ep := newEndpoint(scheme, host)
	defer ep.conns.close()
	req := request{method: http.MethodGet, target: target, read: true, accept: "application/json", pinned: ep}
	resp, err := c.do(ctx, &req)
	return checksOf(&resp, err), err
}

// checksOf finds the checks in an answer, if it has any.
func checksOf(resp *response, err error) []Check {
	body := resp.body
	var e *Error
	if errors.As(err, &e) {
		body = e.body
	}
	var report struct {
		Checks []Check `json:"checks"`
	}
	if json.Unmarshal(body, &report) != nil {
		return nil
	}
	return report.Checks
}
