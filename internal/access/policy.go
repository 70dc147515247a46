package access

import (
	"bytes"
	"slices"
	"sort"

	"github.com/quorate-db/quorate/kv"
)

// Act is a kind of operation.
type Act uint8

const (
	// Read and Write are about keys.
	Read Act = iota
	Write
	// View looks at the cluster: nodes, shards and where they begin and end, which are
	// keys. So it takes the right to read all keys, or to administer.
	View
	// Administer changes the cluster or its tokens.
	Administer
)

// Op is one operation of a request. Only Read and Write name keys: Key alone, or with
// Ranged all keys in [Key, End), an empty End having no bound.
type Op struct {
	Act    Act
	Ranged bool
	Key    []byte
	End    []byte
}

// Policy is the compiled grants of one token. It is immutable.
type Policy struct {
	read, write spans
	administer  bool
}

// NewPolicy compiles grants. Any list of grants has a policy.
func NewPolicy(grants []kv.Grant) *Policy {
	p := &Policy{read: allowed(grants, 1), write: allowed(grants, 2)}
	for i := range grants {
		switch g := &grants[i]; {
		case g.Role != kv.RoleAdmin:
		case g.Deny:
			p.administer = false
			return p
		case len(g.Prefix) == 0:
			p.administer = true
		}
	}
	return p
}

// Allows decides over all operations of a request: it is true if each is allowed.
func (p *Policy) Allows(ops ...Op) bool {
	for i := range ops {
		if !p.allows(&ops[i]) {
			return false
		}
	}
	return true
}

func (p *Policy) allows(op *Op) bool {
	switch op.Act {
	case Read:
		return p.read.cover(op)
	case Write:
		return p.write.cover(op)
	case View:
		return p.administer || p.read.cover(&Op{Ranged: true})
	case Administer:
		return p.administer
	default:
		return false
	}
}

// level orders roles; 0 is none.
func level(r kv.TokenRole) int {
	switch r {
	case kv.RoleReader:
		return 1
	case kv.RoleWriter:
		return 2
	case kv.RoleAdmin:
		return 3
	default:
		return 0
	}
}

// span is the keys in [start, end); an empty end has no bound.
type span struct{ start, end []byte }

// spans are disjoint, ascending, and no two of them touch. So a range is within all
// of them together exactly if it is within one.
type spans []span

// cover reports whether all keys that an operation names are within.
func (s spans) cover(op *Op) bool {
	i := sort.Search(len(s), func(i int) bool { return bytes.Compare(s[i].start, op.Key) > 0 }) - 1
	if op.Ranged && len(op.End) > 0 && bytes.Compare(op.End, op.Key) <= 0 {
		return true // it has no keys
	}
	if i < 0 {
		return false
	}
	end := s[i].end
	switch {
	case len(end) == 0:
		return true
	case !op.Ranged:
		return bytes.Compare(op.Key, end) < 0
	default:
		return len(op.End) > 0 && bytes.Compare(op.End, end) <= 0
	}
}

// edge is where the grants on one prefix begin or end to count.
type edge struct {
	at          []byte
	last        bool // above all keys
	allow, deny int  // how many more or fewer count from here on
}

// allowed gives the keys on which a level is allowed and not denied: it goes over the
// ends of all prefixes and counts those that hold.
func allowed(grants []kv.Grant, want int) spans {
	var edges []edge
	for i := range grants {
		g := &grants[i]
		var e edge
		switch l := level(g.Role); {
		case l == 0:
			continue
		case g.Deny && l <= want:
			e.deny = 1
		case !g.Deny && l >= want:
			e.allow = 1
		default:
			continue
		}
		e.at = g.Prefix
		end, bounded := PrefixEnd(g.Prefix)
		edges = append(edges, e, edge{at: end, last: !bounded, allow: -e.allow, deny: -e.deny})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.last != b.last {
			if a.last {
				return 1
			}
			return -1
		}
		return bytes.Compare(a.at, b.at)
	})
	return sweep(edges)
}

// sweep gives the spans between sorted edges.
func sweep(edges []edge) spans {
	var out spans
	allow, deny, open := 0, 0, false
	for i, e := range edges {
		allow, deny = allow+e.allow, deny+e.deny
		if i+1 < len(edges) && edges[i+1].last == e.last && bytes.Equal(edges[i+1].at, e.at) {
			continue // what is at one key counts together
		}
		switch holds := allow > 0 && deny == 0; {
		case holds && !open:
			out = append(out, span{start: bytes.Clone(e.at)})
		case !holds && open && !e.last:
			out[len(out)-1].end = bytes.Clone(e.at)
		}
		open = allow > 0 && deny == 0
	}
	return out
}

// PrefixEnd gives the least key above all that begin with prefix, false if there is
// none.
func PrefixEnd(prefix []byte) (end []byte, bounded bool) {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end = bytes.Clone(prefix[:i+1])
			end[i]++
			return end, true
		}
	}
	return nil, false
}
