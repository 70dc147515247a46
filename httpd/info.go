package httpd

import (
	"bytes"
	_ "embed" // the OpenAPI document
	"encoding/json"
	"math"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

//go:embed openapi.json
var openAPIText string

// openAPIDocument gives the embedded document without its indentation.
func openAPIDocument() []byte {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(openAPIText)); err != nil {
		return []byte(openAPIText) // a test holds it to be JSON
	}
	return b.Bytes()
}

// reply answers with a document made by encoding/json; control requests are
// rare.
func (x *exchange) reply(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return kv.Errorf(kv.CodeInternal, kv.OutcomeNone, "encode the answer: %w", err)
	}
	x.replyJSON(b)
	return nil
}

// plain checks a request without parameters that is answered in JSON.
func (x *exchange) plain() error {
	if err := x.query.done(); err != nil {
		return err
	}
	_, err := x.accept(formatJSON, false)
	return err
}

type nodeJSON struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Zone        string `json:"zone"`
	HTTPAddress string `json:"http_address"`
	PeerAddress string `json:"peer_address"`
	Release     string `json:"release"`
	Alive       bool   `json:"alive"`
	LastSeen    string `json:"last_seen,omitempty"`
	Draining    bool   `json:"draining"`
	MetaRole    string `json:"meta_role"`
	Replicas    int    `json:"replicas"`
	Leaders     int    `json:"leaders"`
	DiskBytes   int64  `json:"disk_bytes"`
	DiskFree    int64  `json:"disk_free"` // 0 = not reported
	Bytes       int64  `json:"bytes"`
	State       string `json:"state"`
	Reads       rate   `json:"reads_per_second"`
	Writes      rate   `json:"writes_per_second"`
}

// rate is a number of operations a second, written to the tenth.
type rate float64

// MarshalJSON writes a rate; what is no number counts as nothing.
func (r rate) MarshalJSON() ([]byte, error) {
	if f := float64(r); f >= 0 && f < 1e15 {
		return strconv.AppendFloat(nil, math.Round(f*10)/10, 'f', -1, 64), nil
	}
	return []byte("0"), nil
}

func asNodeJSON(n *kv.NodeInfo) nodeJSON {
	out := nodeJSON{
		ID: n.ID.String(), Name: n.Name, Zone: n.Zone, HTTPAddress: n.HTTPAddress, PeerAddress: n.PeerAddress,
		Release: n.Release, Alive: n.Alive, Draining: n.Draining, MetaRole: string(n.MetaRole),
		Replicas: n.Replicas, Leaders: n.Leaders, DiskBytes: n.DiskBytes, DiskFree: n.DiskFree, Bytes: n.Bytes,
		State: nodeState(n), Reads: rate(n.Reads), Writes: rate(n.Writes),
	}
	if n.LastSeenMs != 0 {
		out.LastSeen = time.UnixMilli(n.LastSeenMs).UTC().Format(expiryLayout)
	}
	return out
}

// nodeState gives what is to become of a node, in one word.
func nodeState(n *kv.NodeInfo) string {
	switch {
	case n.State != "":
		return string(n.State)
	case n.Draining:
		return string(kv.NodeDraining)
	}
	return string(kv.NodeActive)
}

type replicaJSON struct {
	Node         string `json:"node"`
	Incarnation  uint64 `json:"incarnation"`
	Voter        bool   `json:"voter"`
	Role         string `json:"role"` // "" = not reported
	AppliedIndex uint64 `json:"applied_index"`
	Failure      string `json:"failure,omitempty"`
}

type shardJSON struct {
	ID         uint64        `json:"id"`
	Generation uint64        `json:"generation"`
	Start      *string       `json:"start,omitempty"`
	StartB64   []byte        `json:"start_b64,omitempty"`
	End        *string       `json:"end,omitempty"` // neither: no end
	EndB64     []byte        `json:"end_b64,omitempty"`
	Leader     string        `json:"leader,omitempty"`
	Term       uint64        `json:"term"`
	Bytes      int64         `json:"bytes"`
	Keys       int64         `json:"keys"`
	Reads      rate          `json:"reads_per_second"`
	Writes     rate          `json:"writes_per_second"`
	Change     *changeJSON   `json:"change,omitempty"`
	Replicas   []replicaJSON `json:"replicas"`
}

// changeJSON is what is being done to a shard.
type changeJSON struct {
	Kind      string `json:"kind"`
	From      string `json:"from,omitempty"`
	To        string `json:"to,omitempty"`
	Operation uint64 `json:"operation,omitempty"`
	Detail    string `json:"detail,omitempty"`
}

func asShardJSON(sh *kv.ShardInfo) shardJSON {
	d := sh.Descriptor
	out := shardJSON{ID: d.GetShard(), Generation: d.GetGeneration(), Term: sh.Term, Bytes: sh.Bytes, Keys: sh.Keys,
		Reads: rate(sh.Reads), Writes: rate(sh.Writes), Replicas: []replicaJSON{}}
	if c := sh.Change; c.Kind != "" {
		out.Change = &changeJSON{string(c.Kind), nodeText(c.From), nodeText(c.To), c.Operation, c.Detail}
	}
	out.Start, out.StartB64 = textOrBytes(d.GetStart())
	if len(d.GetEnd()) > 0 {
		out.End, out.EndB64 = textOrBytes(d.GetEnd())
	}
	if sh.Leader != 0 {
		out.Leader = sh.Leader.String()
	}
	reported := make(map[kv.ServerID]kv.ReplicaInfo, len(sh.Replicas))
	for _, r := range sh.Replicas {
		reported[r.ID] = r
	}
	for _, r := range d.GetReplicas() {
		id := kv.ServerID{Node: kv.NodeID(r.Node), Shard: kv.ShardID(d.Shard), Incarnation: r.Incarnation}
		info := reported[id]
		out.Replicas = append(out.Replicas, replicaJSON{
			Node: id.Node.String(), Incarnation: r.Incarnation, Voter: r.Role == kvpb.ReplicaRole_ROLE_VOTER,
			Role: string(info.Role), AppliedIndex: info.AppliedIndex, Failure: info.Failure,
		})
	}
	return out
}

func (s *Server) getCluster(x *exchange) error {
	if err := x.plain(); err != nil {
		return err
	}
	c, err := s.opts.Cluster.Cluster(x.ctx)
	if err != nil {
		return err
	}
	out := struct {
		ID                string `json:"id"`
		Nodes             int    `json:"nodes"`
		NodesAlive        int    `json:"nodes_alive"`
		Shards            int    `json:"shards"`
		ShardsWithLeader  int    `json:"shards_with_leader"`
		ReplicationFactor int    `json:"replication_factor"`
		MetaLeader        string `json:"meta_leader,omitempty"`
	}{c.ID, c.Nodes, c.NodesAlive, c.Shards, c.ShardsWithLeader, c.ReplicationFactor, ""}
	if c.MetaLeader != 0 {
		out.MetaLeader = c.MetaLeader.String()
	}
	return x.reply(out)
}

func (s *Server) getNodes(x *exchange) error {
	if err := x.plain(); err != nil {
		return err
	}
	nodes, err := s.opts.Cluster.Nodes(x.ctx)
	if err != nil {
		return err
	}
	out := struct {
		Nodes []nodeJSON `json:"nodes"`
	}{make([]nodeJSON, len(nodes))}
	for i := range nodes {
		out.Nodes[i] = asNodeJSON(&nodes[i])
	}
	return x.reply(out)
}

func (s *Server) getNode(x *exchange) error {
	if err := x.plain(); err != nil {
		return err
	}
	n, err := x.pathNode()
	if err != nil {
		return err
	}
	return x.reply(asNodeJSON(n))
}

func (s *Server) getShards(x *exchange) error {
	encoded, err := x.query.encoded()
	if err != nil {
		return err
	}
	key, byKey, err := x.query.bytes("key", encoded)
	if err != nil {
		return err
	}
	if byKey && len(key) == 0 {
		return invalid("query: key: a key has at least one byte")
	}
	if err := x.plain(); err != nil {
		return err
	}
	shards, err := s.opts.Cluster.Shards(x.ctx)
	if err != nil {
		return err
	}
	out := struct {
		Shards []shardJSON `json:"shards"`
	}{make([]shardJSON, 0, len(shards))}
	for i := range shards {
		if !byKey || owns(shards[i].Descriptor, key) {
			out.Shards = append(out.Shards, asShardJSON(&shards[i]))
		}
	}
	return x.reply(out)
}

// owns tells whether a shard's range holds a key.
func owns(d *kvpb.ShardDescriptor, key []byte) bool {
	return string(d.GetStart()) <= string(key) && (len(d.GetEnd()) == 0 || string(key) < string(d.GetEnd())) &&
		kv.ShardID(d.GetShard()) != kv.MetaShard
}

func (s *Server) getShard(x *exchange) error {
	if err := x.plain(); err != nil {
		return err
	}
	id, err := strconv.ParseUint(x.match.Vars["id"], 10, 64)
	if err != nil {
		return invalid("shard: want a decimal number")
	}
	shards, err := s.opts.Cluster.Shards(x.ctx)
	if err != nil {
		return err
	}
	for i := range shards {
		if shards[i].Descriptor.GetShard() == id {
			return x.reply(asShardJSON(&shards[i]))
		}
	}
	return &kv.Error{Code: kv.CodeNotFound, Detail: "no such shard"}
}

func (s *Server) getVersion(x *exchange) error {
	if err := x.plain(); err != nil {
		return err
	}
	return x.reply(struct {
		Release string `json:"release"`
		Go      string `json:"go"`
		Node    string `json:"node"`
	}{s.opts.Release, runtime.Version(), s.opts.Self.String()})
}

func (s *Server) getOpenAPI(x *exchange) error {
	if err := x.plain(); err != nil {
		return err
	}
	x.replyJSON(s.openapi)
	return nil
}

func (s *Server) getMetrics(x *exchange) error {
	if err := x.query.done(); err != nil {
		return err
	}
	if s.opts.Metrics == nil {
		return refusal(codeNoRoute, "this node serves no metrics")
	}
	x.w.Header()["Cache-Control"] = headerNoStore
	s.opts.Metrics.ServeHTTP(x, x.r.WithContext(x.ctx))
	return nil
}

func (s *Server) getLive(x *exchange) error {
	if err := x.plain(); err != nil {
		return err
	}
	if err := s.opts.Health.Live(); err != nil {
		if !x.known() {
			return &kv.Error{Code: kv.CodeUnavailable, Detail: "the process needs help; a token shows more"}
		}
		return &kv.Error{Code: kv.CodeUnavailable, Detail: err.Error(), Cause: err}
	}
	x.replyJSON([]byte(`{"live":true}`))
	return nil
}

// getReady tells whether this node should be sent requests. Shutdown begins with
// a no. What fails is listed always, everything with ?verbose.
func (s *Server) getReady(x *exchange) error {
	verbose, err := x.query.flag("verbose")
	if err != nil {
		return err
	}
	if err := x.plain(); err != nil {
		return err
	}
	checks := s.opts.Health.Ready(x.ctx)
	code := kv.CodeUnavailable
	serving := kv.Check{Name: "serving", OK: !s.draining.Load()}
	if !serving.OK {
		code, serving.Detail = kv.CodeDraining, "the node is shutting down"
	}
	checks = append([]kv.Check{serving}, checks...)
	bad := make([]kv.Check, 0, len(checks))
	for _, c := range checks {
		if !c.OK {
			bad = append(bad, c)
		}
	}
	if !x.known() {
		if verbose = false; len(bad) > 0 {
			return &kv.Error{Code: code, Detail: "the node does not serve; a token shows more"}
		}
	}
	if len(bad) > 0 {
		p := &problem{err: &kv.Error{Code: code, Detail: bad[0].Name + ": " + bad[0].Detail}, checks: bad}
		if verbose {
			p.checks = checks
		}
		return p
	}
	b := []byte(`{"ready":true`)
	if verbose {
		b = appendChecks(append(b, `,"checks":`...), checks)
	}
	x.replyJSON(append(b, '}'))
	return nil
}

var _ http.ResponseWriter = (*exchange)(nil)
