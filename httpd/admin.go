package httpd

import (
	"net/http"
	"strconv"

	"github.com/quorate-db/quorate/kv"
)

// admin gives the control plane of this node.
func (x *exchange) admin() (Admin, error) {
	if x.s.opts.Admin == nil {
		return nil, x.refused(kv.CodeUnavailable, "this node has no control plane")
	}
	return x.s.opts.Admin, nil
}

// refused is an error before anything was changed. Reads have no outcome.
func (x *exchange) refused(code kv.Code, detail string) *kv.Error {
	e := &kv.Error{Code: code, Outcome: kv.OutcomeNotApplied, Detail: detail}
	if x.method == http.MethodGet || x.method == http.MethodHead {
		e.Outcome = kv.OutcomeNone
	}
	return e
}

// change checks a request that changes the cluster and has no body, after all of
// its parameters were taken.
func (x *exchange) change() (Admin, error) {
	if err := x.unrepeatable(); err != nil {
		return nil, err
	}
	if err := x.plain(); err != nil {
		return nil, err
	}
	if err := x.noBody(); err != nil {
		return nil, err
	}
	return x.admin()
}

// unrepeatable refuses an Idempotency-Key where it would not be honoured.
func (x *exchange) unrepeatable() error {
	if len(x.r.Header["Idempotency-Key"]) > 0 {
		return invalid("Idempotency-Key: the control plane remembers no requests; look at /v1/operations instead")
	}
	return nil
}

// replyWith answers with a document and a status.
func (x *exchange) replyWith(status int, v any) error {
	x.success = status
	return x.reply(v)
}

// replyOperation answers with an operation that goes on, and where to find it.
func (x *exchange) replyOperation(o *kv.Operation) error {
	x.locate(o)
	return x.replyWith(http.StatusAccepted, asOperationJSON(o))
}

// locate says in the header where an operation is found.
func (x *exchange) locate(o *kv.Operation) {
	x.w.Header()["Location"] = []string{"/v1/operations/" + strconv.FormatUint(o.ID, 10)}
}

// node finds a node by its id or its name. Sixteen hexadecimal digits are an id;
// anything else is looked for among the names first.
func (x *exchange) node(word string) (*kv.NodeInfo, error) {
	nodes, err := x.s.opts.Cluster.Nodes(x.ctx)
	if err != nil {
		return nil, x.notBegun(err)
	}
	id, notID := kv.ParseNodeID(word)
	if len(word) < 16 || notID != nil {
		for i := range nodes {
			if nodes[i].Name == word {
				return &nodes[i], nil
			}
		}
	}
	for i := range nodes {
		if notID == nil && nodes[i].ID == id {
			return &nodes[i], nil
		}
	}
	return nil, x.refused(kv.CodeNotFound, "no node has the id or the name "+strconv.Quote(word))
}

// pathNode finds the node that the path names.
func (x *exchange) pathNode() (*kv.NodeInfo, error) { return x.node(x.match.Vars["id"]) }

// queryNode finds the node that a parameter names.
func (x *exchange) queryNode(name string) (kv.NodeID, error) {
	word, ok := x.query.take(name)
	if !ok || word == "" {
		return 0, invalid("query: " + name + ": want a node's id or name")
	}
	n, err := x.node(word)
	if err != nil {
		return 0, err
	}
	return n.ID, nil
}

// pathNumber gives the id of what the path names, which is never 0.
func (x *exchange) pathNumber(what string) (uint64, error) {
	id, err := strconv.ParseUint(x.match.Vars["id"], 10, 64)
	if err != nil || id == 0 {
		return 0, invalid(what + ": want a decimal number")
	}
	return id, nil
}

// changeNode and changeShard are change for what is done to what the path names.
func (x *exchange) changeNode() (Admin, *kv.NodeInfo, error) {
	admin, err := x.change()
	if err != nil {
		return nil, nil, err
	}
	n, err := x.pathNode()
	return admin, n, err
}

func (x *exchange) changeShard() (Admin, kv.ShardID, error) {
	shard, err := x.pathShard()
	if err != nil {
		return nil, 0, err
	}
	admin, err := x.change()
	return admin, shard, err
}

// pathShard gives the data shard that the path names.
func (x *exchange) pathShard() (kv.ShardID, error) {
	id, err := x.pathNumber("shard")
	if err != nil {
		return 0, err
	}
	if kv.ShardID(id) == kv.MetaShard {
		return 0, x.refused(kv.CodeConflict, "the meta shard is no data shard; the cluster looks after it by itself")
	}
	return kv.ShardID(id), nil
}

// drainNode serves POST /v1/nodes/{id}/drain and /undrain.
func (s *Server) drainNode(on bool) func(*exchange) error {
	return func(x *exchange) error {
		admin, n, err := x.changeNode()
		if err != nil {
			return err
		}
		if err := admin.Drain(x.ctx, n.ID, on); err != nil {
			return err
		}
		return x.reply(struct {
			Node     string `json:"node"`
			Name     string `json:"name"`
			Draining bool   `json:"draining"`
		}{n.ID.String(), n.Name, on})
	}
}

// removeNode serves DELETE /v1/nodes/{id}.
func (s *Server) removeNode(x *exchange) error {
	admin, n, err := x.changeNode()
	if err != nil {
		return err
	}
	o, err := admin.RemoveNode(x.ctx, n.ID)
	if err != nil {
		return err
	}
	return x.replyOperation(&o)
}

// splitShard serves POST /v1/shards/{id}/split.
func (s *Server) splitShard(x *exchange) error {
	encoded, err := x.query.encoded()
	if err != nil {
		return err
	}
	key, given, err := x.query.bytes("key", encoded)
	if err != nil {
		return err
	}
	if given && len(key) == 0 {
		return invalid("query: key: a key has at least one byte; leave it out to split in the middle")
	}
	return x.shardOperation(func(admin Admin, shard kv.ShardID) (kv.Operation, error) {
		return admin.Split(x.ctx, shard, key)
	})
}

// mergeShard serves POST /v1/shards/{id}/merge.
func (s *Server) mergeShard(x *exchange) error {
	return x.shardOperation(func(admin Admin, shard kv.ShardID) (kv.Operation, error) {
		return admin.Merge(x.ctx, shard)
	})
}

// moveReplica serves POST /v1/shards/{id}/move.
func (s *Server) moveReplica(x *exchange) error {
	from, err := x.queryNode("from")
	if err != nil {
		return err
	}
	to, err := x.queryNode("to")
	if err != nil {
		return err
	}
	if from == to {
		return invalid("query: from and to are the same node")
	}
	return x.shardOperation(func(admin Admin, shard kv.ShardID) (kv.Operation, error) {
		return admin.Move(x.ctx, shard, from, to)
	})
}

func (x *exchange) shardOperation(begin func(admin Admin, shard kv.ShardID) (kv.Operation, error)) error {
	admin, shard, err := x.changeShard()
	if err != nil {
		return err
	}
	o, err := begin(admin, shard)
	if err != nil {
		return err
	}
	return x.replyOperation(&o)
}

// transferLeader serves POST /v1/shards/{id}/transfer.
func (s *Server) transferLeader(x *exchange) error {
	to, err := x.queryNode("to")
	if err != nil {
		return err
	}
	admin, shard, err := x.changeShard()
	if err != nil {
		return err
	}
	if err := admin.TransferLeader(x.ctx, shard, to); err != nil {
		return err
	}
	return x.reply(struct {
		Shard  uint64 `json:"shard"`
		Leader string `json:"leader"`
	}{uint64(shard), to.String()})
}

// rebalance serves POST /v1/rebalance.
func (s *Server) rebalance(x *exchange) error {
	dryRun, err := x.query.flag("dry_run")
	if err != nil {
		return err
	}
	admin, err := x.change()
	if err != nil {
		return err
	}
	x.readOnly = dryRun
	steps, o, err := admin.Rebalance(x.ctx, dryRun)
	if err != nil {
		return err
	}
	out := struct {
		DryRun    bool           `json:"dry_run"`
		Steps     []stepJSON     `json:"steps"`
		Operation *operationJSON `json:"operation,omitempty"`
	}{DryRun: dryRun, Steps: make([]stepJSON, len(steps))}
	for i := range steps {
		out.Steps[i] = asStepJSON(&steps[i])
	}
	if o.ID == 0 {
		return x.reply(out)
	}
	op := asOperationJSON(&o)
	out.Operation = &op
	x.locate(&o)
	return x.replyWith(http.StatusAccepted, out)
}
