package httpd

import (
	"strconv"
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// The documents of the control plane. Ids of nodes are text, everything else that
// is counted is a number: none of it comes near 2^53.

type operationJSON struct {
	ID          uint64 `json:"id"`
	Kind        string `json:"kind"`
	State       string `json:"state"`
	Target      string `json:"target"`
	Node        string `json:"node,omitempty"`
	Shard       uint64 `json:"shard,omitempty"`
	Started     string `json:"started"`
	Updated     string `json:"updated"`
	Done        int64  `json:"done"`
	Total       int64  `json:"total"`
	Detail      string `json:"detail,omitempty"`
	Error       string `json:"error,omitempty"`
	Cancellable bool   `json:"cancellable"`
}

func asOperationJSON(o *kv.Operation) operationJSON {
	return operationJSON{
		ID: o.ID, Kind: string(o.Kind), State: string(o.State), Target: o.Target, Node: nodeText(o.Node), Shard: uint64(o.Shard),
		Started: timeText(o.StartedMs), Updated: timeText(o.UpdatedMs), Done: o.Done, Total: o.Total,
		Detail: o.Detail, Error: o.Error, Cancellable: o.Cancellable,
	}
}

type problemJSON struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	Summary  string `json:"summary"`
	Help     string `json:"help"`
	Node     string `json:"node,omitempty"`
	Shard    uint64 `json:"shard,omitempty"`
	Since    string `json:"since,omitempty"`
}

func asProblemJSON(p *kv.Problem) problemJSON {
	out := problemJSON{Code: p.Code, Severity: string(p.Severity), Summary: p.Summary, Help: p.Help, Node: nodeText(p.Node), Shard: uint64(p.Shard)}
	if p.SinceMs != 0 {
		out.Since = timeText(p.SinceMs)
	}
	return out
}

type eventJSON struct {
	Seq    uint64 `json:"seq"`
	Time   string `json:"time"`
	Kind   string `json:"kind"`
	Node   string `json:"node,omitempty"`
	Shard  uint64 `json:"shard,omitempty"`
	Detail string `json:"detail"`
}

func asEventJSON(e *kv.Event) eventJSON {
	return eventJSON{Seq: e.Seq, Time: timeText(e.TimeMs), Kind: e.Kind, Node: nodeText(e.Node), Shard: uint64(e.Shard), Detail: e.Detail}
}

type stepJSON struct {
	Kind   string `json:"kind"`
	Shard  uint64 `json:"shard,omitempty"`
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
	Bytes  int64  `json:"bytes"`
	Reason string `json:"reason"`
}

func asStepJSON(s *kv.PlannedStep) stepJSON {
	return stepJSON{Kind: s.Kind, Shard: uint64(s.Shard), From: nodeText(s.From), To: nodeText(s.To), Bytes: s.Bytes, Reason: s.Reason}
}

type configJSON struct {
	Revision          uint64  `json:"revision"`
	ReplicationFactor int     `json:"replication_factor"`
	DeadGrace         string  `json:"dead_grace"`
	SplitBytes        int64   `json:"split_bytes"`
	SplitLoad         float64 `json:"split_load"`
	MergeBytes        int64   `json:"merge_bytes"`
	AutoBalance       bool    `json:"auto_balance"`
	LeaderZone        string  `json:"leader_zone"`
	SnapshotRate      int64   `json:"snapshot_rate"`
	MovesPerNode      int     `json:"moves_per_node"`
	MovesPerCluster   int     `json:"moves_per_cluster"`
}

func asConfigJSON(c *kv.ClusterConfig) configJSON {
	return configJSON{
		Revision: c.Revision, ReplicationFactor: c.ReplicationFactor, DeadGrace: kv.DurationText(c.DeadGrace), SplitBytes: c.SplitBytes,
		SplitLoad: c.SplitLoad, MergeBytes: c.MergeBytes, AutoBalance: c.AutoBalance, LeaderZone: c.LeaderZone,
		SnapshotRate: c.SnapshotRate, MovesPerNode: c.MovesPerNode, MovesPerCluster: c.MovesPerCluster,
	}
}

// Fields of the settings, in the order of configFields.
const (
	fRevision = iota
	fReplicationFactor
	fDeadGrace
	fSplitBytes
	fSplitLoad
	fMergeBytes
	fAutoBalance
	fLeaderZone
	fSnapshotRate
	fMovesPerNode
	fMovesPerCluster
	configFieldCount
)

var configFields = fields{
	"revision", "replication_factor", "dead_grace", "split_bytes", "split_load", "merge_bytes", "auto_balance", "leader_zone",
	"snapshot_rate", "moves_per_node", "moves_per_cluster",
}

// configBody is a body with settings: which it names, and their values.
type configBody struct {
	seen   uint32
	config kv.ClusterConfig
}

func parseConfig(body []byte) (configBody, error) {
	var out configBody
	c := &out.config
	r := &reader{data: body}
	out.seen = r.object(configFields, func(i int) {
		switch i {
		case fRevision:
			c.Revision = uint64(r.integer())
		case fReplicationFactor:
			c.ReplicationFactor = int(r.integer())
		case fDeadGrace:
			c.DeadGrace = r.duration()
		case fSplitBytes:
			c.SplitBytes = r.integer()
		case fSplitLoad:
			c.SplitLoad = r.float()
		case fMergeBytes:
			c.MergeBytes = r.integer()
		case fAutoBalance:
			c.AutoBalance = r.boolean()
		case fLeaderZone:
			c.LeaderZone = string(r.str())
		case fSnapshotRate:
			c.SnapshotRate = r.integer()
		case fMovesPerNode:
			c.MovesPerNode = int(r.integer())
		case fMovesPerCluster:
			c.MovesPerCluster = int(r.integer())
		}
	})
	return out, r.end()
}

// missing names the settings that a whole document would have and this has not.
func (b *configBody) missing() string {
	var names []string
	for i := fReplicationFactor; i < configFieldCount; i++ {
		if b.seen&(1<<i) == 0 {
			names = append(names, configFields[i])
		}
	}
	return strings.Join(names, ", ")
}

// over gives c with what the body names put in its place.
func (b *configBody) over(c kv.ClusterConfig) kv.ClusterConfig {
	n := &b.config
	for i := fReplicationFactor; i < configFieldCount; i++ {
		if b.seen&(1<<i) == 0 {
			continue
		}
		switch i {
		case fReplicationFactor:
			c.ReplicationFactor = n.ReplicationFactor
		case fDeadGrace:
			c.DeadGrace = n.DeadGrace
		case fSplitBytes:
			c.SplitBytes = n.SplitBytes
		case fSplitLoad:
			c.SplitLoad = n.SplitLoad
		case fMergeBytes:
			c.MergeBytes = n.MergeBytes
		case fAutoBalance:
			c.AutoBalance = n.AutoBalance
		case fLeaderZone:
			c.LeaderZone = n.LeaderZone
		case fSnapshotRate:
			c.SnapshotRate = n.SnapshotRate
		case fMovesPerNode:
			c.MovesPerNode = n.MovesPerNode
		case fMovesPerCluster:
			c.MovesPerCluster = n.MovesPerCluster
		}
	}
	return c
}

// integerMax is the largest number that every JSON library reads exactly.
const integerMax = 1 << 53

// numberToken gives the text of a JSON number, as far as its characters go.
func (r *reader) numberToken() string {
	r.next()
	start := r.pos
	for r.pos < len(r.data) && strings.IndexByte("+-.0123456789Ee", r.data[r.pos]) >= 0 {
		r.pos++
	}
	text := string(r.data[start:r.pos])
	digits := strings.TrimPrefix(text, "-")
	if digits == "" || digits[0] < '0' || digits[0] > '9' || len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' || strings.HasSuffix(text, ".") {
		return "" // what JSON does not write and strconv would read
	}
	return text
}

// integer reads a whole number that is not negative.
func (r *reader) integer() int64 {
	if r.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(r.numberToken(), 10, 64)
	if err != nil || n > integerMax {
		r.fail("want a whole number from 0 to 2^53")
		return 0
	}
	return int64(n)
}

// float reads a number that is not negative.
func (r *reader) float() float64 {
	if r.err != nil {
		return 0
	}
	f, err := strconv.ParseFloat(r.numberToken(), 64)
	if err != nil || f < 0 {
		r.fail("want a number that is not negative")
		return 0
	}
	return f
}

// duration reads a Go duration in a string.
func (r *reader) duration() time.Duration {
	text := r.str()
	if r.err != nil {
		return 0
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d < 0 {
		r.fail(`want a duration like "5m"`)
	}
	return d
}

// timeText writes milliseconds since the Unix epoch.
func timeText(ms int64) string { return time.UnixMilli(ms).UTC().Format(expiryLayout) }

// nodeText gives a node's id, "" for none.
func nodeText(id kv.NodeID) string {
	if id == 0 {
		return ""
	}
	return id.String()
}
