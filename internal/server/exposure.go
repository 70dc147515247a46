package server

import (
	"strings"

	"github.com/quorate-db/quorate/kv"
)

// exposure says what of a node whoever reaches it from another machine may do or hear
// without having been given anything.
type exposure struct {
	clients bool // read and write everything: the HTTP port asks nobody for a token
	peers   bool // be a node: the peer port takes everybody for one
	clear   bool // hear the tokens of clients, which pass in plain HTTP
}

// exposure tells what of c reaches beyond loopback. Clients and peers are there only
// where --insecure wants them: without it, such a configuration is not valid.
func (c Config) exposure() exposure {
	beyond := beyondLoopback(c.HTTP.Listen)
	return exposure{
		clients: c.Security.Insecure && !c.Auth.On && beyond,
		peers:   c.Security.Insecure && !c.Security.secured() && beyondLoopback(c.Peer.Listen),
		clear:   c.Auth.On && !c.Security.Web.on() && beyond,
	}
}

// open reports whether whoever reaches the node can do everything.
func (e exposure) open() bool { return e.clients || e.peers }

// beyondLoopback reports whether others than this machine reach what listens there.
func beyondLoopback(listen string) bool {
	host, err := hostPort(listen, false)
	return err == nil && !loopback(host)
}

// ports names those that are open.
func (e exposure) ports() string {
	var words []string
	if e.clients {
		words = append(words, "port for clients")
	}
	if e.peers {
		words = append(words, "port for other nodes")
	}
	return strings.Join(words, " and its ")
}

// help says how to close them.
func (e exposure) help() string {
	var words []string
	if e.clients {
		words = append(words, "give every node --auth, and clients tokens ('quorate token create')")
	}
	if e.peers {
		words = append(words, "run 'quorate secret new --out FILE' and give every node the file with --cluster-secret-file, or use --peer-cert, --peer-key and --peer-ca")
	}
	return strings.Join(words, "; ")
}

// warnIfExposed says it in the log.
func (p *process) warnIfExposed() {
	e := p.config.exposure()
	if e.open() {
		p.log.Warn("THIS NODE IS NOT SECURED: whoever reaches its "+e.ports()+" can read and write everything",
			"http", p.config.HTTP.Listen, "peer", p.config.Peer.Listen, "help", e.help())
	}
	if e.clear {
		p.log.Warn("TOKENS TRAVEL IN CLEAR: clients beyond loopback are served over plain HTTP, and whoever is on the way reads what they send; --tls ends that",
			"http", p.config.HTTP.Listen)
	}
}

// problems is what `quorate problems` says of it, for the node of that name.
func (e exposure) problems(node kv.NodeID, name string) []kv.Problem {
	var out []kv.Problem
	if e.open() {
		out = append(out, kv.Problem{
			Code: "insecure", Severity: kv.SeverityWarning, Node: node,
			Summary: "node " + name + " runs with --insecure: whoever reaches its " + e.ports() + " can read and write everything",
			Help:    e.help(),
		})
	}
	if e.clear {
		out = append(out, kv.Problem{
			Code: "tokens-in-clear", Severity: kv.SeverityWarning, Node: node,
			Summary: "node " + name + " serves clients beyond loopback over plain HTTP: whoever is on the way reads their tokens",
			Help:    "give every node --tls, and clients what 'quorate cert' prints; or keep the port in a network of its own, behind a proxy that speaks TLS",
		})
	}
	return out
}
