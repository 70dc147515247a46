package pki

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"

	"github.com/quorate-db/quorate/kv"
)

// Role says what a certificate is for. One of a role is refused where another is
// expected, whoever signed it.
type Role string

const (
	// RoleNode is for peer traffic, at both ends.
	RoleNode Role = "node"
	// RoleWeb is for the server of clients.
	RoleWeb Role = "web"
	// RoleClient is for a client. Nothing takes it as proof of who that is.
	RoleClient Role = "client"
)

func (r Role) usage() []x509.ExtKeyUsage {
	switch r {
	case RoleNode:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	case RoleWeb:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	default:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
}

// Name is who a certificate says its holder is. In a certificate it is a URI:
// quorate://CLUSTER/ROLE/ID, without an ID if it is good for any node.
type Name struct {
	Cluster string // "" = the node is in no cluster yet
	Role    Role
	Node    kv.NodeID
}

const uriScheme = "quorate"

func (n Name) uri() *url.URL {
	path := "/" + string(n.Role)
	if n.Node != 0 {
		path += "/" + n.Node.String()
	}
	return &url.URL{Scheme: uriScheme, Host: n.Cluster, Path: path}
}

// String gives the URI.
func (n Name) String() string { return n.uri().String() }

func (n Name) common() string { return "quorate " + string(n.Role) + " " + n.Node.String() }

// nameIn reads the one name of ours in a certificate that a node minted.
func nameIn(cert *x509.Certificate) (Name, error) { return parseName(cert, true) }

// issuedNameIn reads the one name of ours in a certificate of an operator's making, who
// may not know the ids of nodes: quorate://NAME/node is a name, without an id.
func issuedNameIn(cert *x509.Certificate) (Name, error) { return parseName(cert, false) }

func parseName(cert *x509.Certificate, withID bool) (Name, error) {
	form := uriScheme + "://CLUSTER/ROLE"
	if withID {
		form += "/ID"
	}
	var found []*url.URL
	for _, u := range cert.URIs {
		if u.Scheme == uriScheme {
			found = append(found, u)
		}
	}
	if len(found) != 1 {
		return Name{}, fmt.Errorf("the certificate holds %d names of the form %s, want one", len(found), form)
	}
	u := found[0]
	role, id, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	var node kv.NodeID
	var err error
	if ok || withID {
		node, err = kv.ParseNodeID(id)
	}
	if role == "" || err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return Name{}, fmt.Errorf("the certificate's name %q is not of the form %s", clip(u.String()), form)
	}
	return Name{Cluster: u.Host, Role: Role(role), Node: node}, nil
}

// clip bounds text of strangers.
func clip(text string) string {
	const most = 200
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
