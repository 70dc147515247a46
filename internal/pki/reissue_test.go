package pki

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate-db/quorate/raftnode/peer"
)

// TestReissue replaces the certificates and then the authority of two nodes that talk
// without a pause: connections move to what is new, no call fails, nobody is thought to
// be gone.
func TestReissue(t *testing.T) {
	old := newIssuer(t, "authority 0", nil)
	var dirs [2]string
	var nodes [2]*Issued
	var by [2]peer.Security
	for i := range dirs {
		own := old.issue(t, nil)
		dirs[i] = t.TempDir()
		nodes[i] = openIssued(t, write(t, dirs[i], &own, old))
		by[i] = issuedSecurity{nodes[i]}
	}
	replaceWhileBusy(t, by, 2, func() change {
		next, before := newIssuer(t, "after "+old.cert.Subject.CommonName, nil), old
		old = next
		return func(step, i int) {
			switch own := next.issue(t, nil); step {
			case 0:
				write(t, dirs[i], nil, before, next)
			case 1:
				write(t, dirs[i], &own)
			case 2:
				write(t, dirs[i], nil, next)
			}
			nodes[i].Look()
		}
	})
}

// TestRemovedAuthorityEnds: of three nodes the one whose authority is taken out of the
// bundle is cut off, at both ends; the other two go on over the connection they had.
func TestRemovedAuthorityEnds(t *testing.T) {
	good, bad := newIssuer(t, "good", nil), newIssuer(t, "bad", nil)
	dir := t.TempDir()
	one := good.issue(t, nil)
	nodes := []*Issued{openIssued(t, write(t, dir, &one, good, bad))}
	for _, by := range []*issuer{good, bad} {
		own := by.issue(t, nil)
		nodes = append(nodes, openIssued(t, write(t, t.TempDir(), &own, good, bad)))
	}
	n := newNetwork()
	a := n.start(t, 1, issuedSecurity{nodes[0]}, quick)
	b := n.start(t, 2, issuedSecurity{nodes[1]}, quick)
	c := n.start(t, 3, issuedSecurity{nodes[2]}, quick)
	ask := func() map[string]error {
		return map[string]error{
			"1 to 2": call(t, a, 2, peer.MethodTerms, "x"), "2 to 1": call(t, b, 1, peer.MethodTerms, "x"),
			"1 to 3": call(t, a, 3, peer.MethodTerms, "x"), "3 to 1": call(t, c, 1, peer.MethodTerms, "x"),
		}
	}
	for way, err := range ask() {
		if err != nil {
			t.Fatalf("%s: %v", way, err)
		}
	}
	write(t, dir, nil, good)
	nodes[0].Look()
	eventually(t, "both connections ended", func() bool { return n.ended(1) == 2 && n.ended(3) == 2 })
	defer func() {
		if t.Failed() {
			n.dump(t)
		}
	}()
	for way, err := range ask() {
		if with3 := strings.Contains(way, "3"); (err != nil) != with3 {
			t.Errorf("%s: %v", way, err)
		}
	}
	if n.ended(2) != 0 {
		t.Errorf("node 2 has lost %d connections", n.ended(2))
	}
	eventually(t, "log", func() bool { // once node 3 dials again
		if call(t, c, 1, peer.MethodTerms, "x") == nil {
			t.Fatal("let in again")
		}
		return n.says(1, "refused a connection", "other_authority", "CN=bad")
	})
}

// TestFilesThatChangeNothing: halves of a change, and what would be refused at start,
// leave what was there, and are told once.
func TestFilesThatChangeNothing(t *testing.T) {
	ca, other := newIssuer(t, "operator", nil), newIssuer(t, "other", nil)
	dir := t.TempDir()
	first := ca.issue(t, nil)
	f := write(t, dir, &first, ca)
	var log bytes.Buffer
	i, err := OpenIssued(f, slog.New(slog.NewTextHandler(&log, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	before := i.load()
	next := ca.issue(t, nil)
	for want, change := range map[string]func(){
		"private key does not": func() {
			if err := os.WriteFile(f.Cert, certPEM(next.Certificate...), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"not by an authority": func() { write(t, dir, nil, other) },
		"changes by a restart": func() {
			own := ca.issue(t, named("quorate://test/node"))
			write(t, dir, &own)
		},
		"for a client": func() {
			own := ca.issue(t, named("quorate://prod/client"))
			write(t, dir, &own)
		},
		"no such file": func() { _ = os.Remove(f.CA) },
	} {
		log.Reset()
		change()
		i.Look()
		i.Look()
		if i.load() != before || strings.Count(log.String(), want) != 1 {
			t.Errorf("%s: changed %t, log:\n%s", want, i.load() != before, log.String())
		}
		write(t, dir, &first, ca)
		i.Look()
	}
	log.Reset()
	write(t, dir, &next, ca, other)
	i.Look()
	if i.load() == before || !strings.Contains(log.String(), "certificates for the peer port changed") {
		t.Errorf("nothing changed: %s", log.String())
	}
}

// TestExpiryAlone has a connection replaced, and not closed. It is told of before, once.
func TestExpiryAlone(t *testing.T) {
	ca := newIssuer(t, "operator", nil)
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	own := ca.issue(t, nil)
	f := write(t, t.TempDir(), &own, ca)
	var log bytes.Buffer
	i, err := OpenIssued(f, slog.New(slog.NewTextHandler(&log, nil)), clock)
	if err != nil {
		t.Fatal(err)
	}
	at := func(theirs tls.Certificate) *issuedStanding {
		chain, err := parseAll(theirs.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		return &issuedStanding{issued: i, mine: i.load().own.Leaf, theirs: chain, usage: RoleNode.usage()[0], since: clock()}
	}
	s := at(ca.issue(t, nil))
	if got := s.standing(); got != Current {
		t.Fatalf("standing %d", got)
	}
	for _, c := range []struct {
		ahead time.Duration // of an hour that is left of two
		soon  bool
	}{{0, false}, {25 * time.Minute, false}, {35 * time.Minute, true}, {2 * time.Hour, true}} {
		ahead.Store(int64(c.ahead))
		i.Look()
		for _, term := range i.Terms() { // of the certificate and of the authority
			told := strings.Count(log.String(), `"a certificate ends soon" use=`+string(term.Use))
			if soon := term.EndsSoon(clock()); soon != c.soon || (told == 1) != c.soon {
				t.Errorf("after %s: %s: soon %t, told %d times", c.ahead, term.Use, soon, told)
			}
		}
	}
	if got := s.standing(); got != Outdated {
		t.Errorf("standing %d once it has expired", got)
	}
	i.Look()
	if got := s.standing(); got != Outdated {
		t.Errorf("standing %d once an expired file was looked at", got)
	}
}
