package server

import (
	"time"

	"github.com/quorate-db/quorate/internal/pki"
	"github.com/quorate-db/quorate/kv"
)

// certified are files of certificates that may change.
type certified interface {
	Look()
	Terms() []pki.Term
}

// keep has files looked at, and their ends told of. Certificates that nodes mint for
// themselves are not among them: nobody has to renew those.
func (p *process) keep(c certified) {
	p.looks = append(p.looks, c.Look)
	p.terms = append(p.terms, c.Terms)
}

// ends gives from when to when the files of certificates count that this node was given.
func (p *process) ends() []pki.Term {
	var all []pki.Term
	for _, terms := range p.terms {
		all = append(all, terms()...)
	}
	return all
}

// uses says for each use of certificates what they are, what stops when one of them
// ends and how bad that is, and what helps before. An authority that has ended may be
// one that nobody needs any more.
var uses = map[pki.Use]struct {
	what, stops string
	ended       kv.Severity
	help        string
}{
	pki.UsePeerCert: {
		"certificate for the peer port", "no new connection between it and others is made", kv.SeverityCritical,
		"renew the files of --peer-cert and --peer-key; they are read again within two seconds",
	},
	pki.UsePeerCA: {
		"authority for the peer port", "it makes no new connection to nodes with certificates by that authority", kv.SeverityWarning,
		"add a new authority to the file of --peer-ca on every node, then renew certificates, then take the old one out",
	},
	pki.UseTLSCert: {
		"certificate for clients", "clients refuse it", kv.SeverityCritical,
		"renew the files of --tls-cert and --tls-key; they are read again within two seconds",
	},
	pki.UseTLSCA: {
		"authority of clients", "it refuses clients with certificates by that authority", kv.SeverityWarning,
		"add a new authority to the file of --tls-ca on every node, then renew clients' certificates, then take the old one out",
	},
}

// endingProblems tells of certificates that end soon, or have ended.
func endingProblems(id kv.NodeID, name string, terms []pki.Term, now time.Time) []kv.Problem {
	var out []kv.Problem
	for _, t := range terms {
		if !t.EndsSoon(now) {
			continue
		}
		use, end := uses[t.Use], t.End.UTC().Format(time.RFC3339)
		p := kv.Problem{
			Code: "certificate-ends", Severity: kv.SeverityWarning, Node: id, Help: use.help,
			Summary: "node " + name + "'s " + use.what + " (" + t.Subject + ") ends at " + end,
		}
		if now.After(t.End) {
			p.Severity = use.ended
			p.Summary = "node " + name + "'s " + use.what + " (" + t.Subject + ") ended at " + end + ": " + use.stops
		}
		out = append(out, p)
	}
	return out
}
