package httpd

import (
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
)

// need is what a route asks of its callers, where tokens are asked for at all.
type need uint8

const (
	needUnsaid  need = iota // nobody gets in: the route forgot to say
	needNothing             // probes, and the description of the API
	needMetrics             // any token; from this machine none
	needToken               // any token
	needKeys                // any token; what it may do is decided when the keys are known
	needView                // to look at the cluster
	needAdmin               // to change it
)

// Challenges of a 401 (RFC 6750).
var (
	headerChallenge    = []string{`Bearer realm="quorate"`}
	headerInvalidToken = []string{`Bearer realm="quorate", error="invalid_token"`}
)

// caller is who sent a request.
type caller struct {
	needs  need
	who    *access.Credential // nil: nobody knows
	ops    []access.Op        // scratch
	target string             // for the audit log
}

// id gives the id of the caller's token, "" if there is none.
func (c *caller) id() string {
	if c.who == nil {
		return ""
	}
	return c.who.Token.ID
}

// known reports whether the caller may be told more than that there is a server.
func (x *exchange) known() bool { return x.s.opts.Access == nil || x.caller.who != nil }

// authorize decides whether the request may go on, from its header alone. What it may
// do with which keys is permit's.
func (x *exchange) authorize(needs need) error {
	x.caller.needs = needs
	if x.s.opts.Access == nil {
		return nil
	}
	switch {
	case needs == needNothing:
		_ = x.identify() // a token that does not count is as good as none
		return nil
	case needs == needMetrics && x.local():
		return nil
	}
	if err := x.identify(); err != nil {
		return err
	}
	if l := x.caller.who.Limiter; l != nil && !l.AllowN(x.s.opts.Now(), 1) {
		p := refusal(kv.CodeOverloaded, "the token may make "+strconv.FormatFloat(float64(l.Limit()), 'g', -1, 64)+" requests a second at each node")
		p.seconds = int(math.Ceil(1 / float64(l.Limit())))
		return p
	}
	switch needs {
	case needMetrics, needToken, needKeys:
		return nil
	case needView:
		return x.may(access.Op{Act: access.View})
	case needAdmin:
		return x.may(access.Op{Act: access.Administer})
	default:
		return forbidden()
	}
}

// identify finds the caller by the Authorization header.
func (x *exchange) identify() error {
	text, none, ok := access.FromHeader(x.r.Header["Authorization"])
	switch {
	case none:
		return refusal(kv.CodeUnauthenticated, "send Authorization: Bearer and a token")
	case !ok:
		return unauthenticated("the Authorization header is not Bearer and one token")
	}
	table, err := x.s.opts.Access.Table()
	if err != nil {
		return err
	}
	who, why := table.Find(text, x.s.opts.Now().UnixMilli())
	switch why {
	case access.Unknown:
		return unauthenticated("there is no such token, or not any more")
	case access.Expired:
		return unauthenticated("the token has expired")
	}
	x.caller.who = who
	return nil
}

func unauthenticated(detail string) error {
	p := refusal(kv.CodeUnauthenticated, detail)
	p.invalid = true
	return p
}

// forbidden says no more than that: what is there is nobody's business who may not see
// it.
func forbidden() error { return refusal(kv.CodeForbidden, "the token does not allow this") }

// may asks the caller's policy about operations, which are all of the request or all
// that it is about to do.
func (x *exchange) may(ops ...access.Op) error {
	if x.s.opts.Access == nil {
		return nil
	}
	if x.caller.who == nil || !x.caller.who.Policy.Allows(ops...) {
		return forbidden()
	}
	return nil
}

// stillAllowed is for requests that go on for long: is the caller's token still there?
func (x *exchange) stillAllowed() error {
	if x.s.opts.Access == nil {
		return nil
	}
	table, err := x.s.opts.Access.Table()
	switch {
	case err != nil:
		return err
	case x.caller.who == nil || !table.Holds(x.caller.who, x.s.opts.Now().UnixMilli()):
		return unauthenticated("the token does not count any more")
	}
	return nil
}

// local reports whether the request comes from a process on this machine, and not
// through a proxy on it.
func (x *exchange) local() bool {
	for _, name := range [...]string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if len(x.r.Header[name]) > 0 {
			return false
		}
	}
	host, _, err := net.SplitHostPort(x.r.RemoteAddr)
	return err == nil && net.ParseIP(host).IsLoopback()
}

// targetBytesMax bounds what is noted of a path.
const targetBytesMax = 64

// audit reports a request that was denied or that administers.
func (x *exchange) audit() {
	denied := x.code == kv.CodeUnauthenticated || x.code == kv.CodeForbidden
	acts := x.caller.needs == needAdmin && x.method != http.MethodGet && x.method != http.MethodHead
	f := x.s.opts.Hooks.Audit
	if f == nil || !denied && !acts {
		return
	}
	info := AuditInfo{
		Token: x.caller.id(), Method: x.method, Route: x.route, Target: x.caller.target, From: x.r.RemoteAddr,
		Status: x.status, Code: x.code, Outcome: x.outcome,
	}
	if x.caller.who != nil {
		info.Name = x.caller.who.Token.Name
	}
	// A whole token in the place of its id would be one that is in the log.
	if id := x.match.Vars["id"]; info.Target == "" && len(id) <= targetBytesMax && !strings.Contains(id, "qrt_") {
		info.Target = id
	}
	f(info)
}
