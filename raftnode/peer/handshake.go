package peer

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/quorate-db/quorate/kv"
)

// The dialler sends a hello, the listener answers with a welcome or a refusal;
// frames follow. Each greeting is, little-endian:
//
//	magic    4 bytes "QRTP"
//	length   u16 of the body, at most greetingBodyMax
//	body
//	crc      u32 Castagnoli, of everything before it
//
// Fields of a body are only ever added at its end, and a reader ignores what
// it does not know, so that releases can refuse each other in words.
const (
	greetingMagic   = "QRTP"
	greetingBodyMax = 2048
	greetingTextMax = 512

	flagRenewal = 1

	protocolMin = 1
	protocolMax = 1
)

// greeting is the body of a hello, a welcome or a refusal.
type greeting struct {
	kind       greetingKind
	versionMin uint16 // in a welcome both are the version chosen
	versionMax uint16
	class      Class
	byAddress  bool      // dialled for one call, whoever is there
	self       kv.NodeID // who sends this
	expected   kv.NodeID // in a hello: whom it wants; 0 = whoever
	clockUs    int64     // the sender's wall clock, microseconds since the Unix epoch
	cluster    string    // "" = in no cluster yet
	advertise  string    // host:port where the sender is dialled
	refusal    refusal
	text       string // of a refusal
	renewal    bool   // in a hello: the connection that this one replaces still drains
}

type greetingKind uint8

const (
	greetHello greetingKind = iota + 1
	greetWelcome
	greetRefusal
)

// refusal says why a handshake ended without a connection.
type refusal uint8

const (
	refuseNothing refusal = iota
	refuseVersion
	refuseSelf
	refuseNode
	refuseCluster
	refuseSecurity
	refuseCertificate
)

func (r refusal) String() string {
	switch r {
	case refuseVersion:
		return "protocol_version"
	case refuseSelf:
		return "self"
	case refuseNode:
		return "unexpected_node"
	case refuseCluster:
		return "other_cluster"
	case refuseSecurity:
		return "not_tls"
	case refuseCertificate:
		return "other_certificate"
	default:
		return "unknown"
	}
}

// refusalError ends a handshake, on either end.
type refusalError struct {
	reason refusal
	by     kv.NodeID // who is at the other end
	text   string
}

func (e *refusalError) Error() string { return "handshake refused: " + e.text }

func appendGreeting(buf []byte, g *greeting) []byte {
	start := len(buf)
	buf = append(buf, greetingMagic...)
	buf = append(buf, 0, 0) // the length
	body := len(buf)
	le := binary.LittleEndian
	buf = append(buf, byte(g.kind))
	buf = le.AppendUint16(buf, g.versionMin)
	buf = le.AppendUint16(buf, g.versionMax)
	var byAddress byte
	if g.byAddress {
		byAddress = 1
	}
	buf = append(buf, byte(g.class), byAddress)
	buf = le.AppendUint64(buf, uint64(g.self))
	buf = le.AppendUint64(buf, uint64(g.expected))
	buf = le.AppendUint64(buf, uint64(g.clockUs))
	buf = append(buf, byte(g.refusal))
	for _, text := range []string{g.cluster, g.advertise, g.text} {
		text = clip(text, greetingTextMax)
		buf = le.AppendUint16(buf, uint16(len(text)))
		buf = append(buf, text...)
	}
	var flags byte
	if g.renewal {
		flags |= flagRenewal
	}
	buf = append(buf, flags)
	le.PutUint16(buf[body-2:], uint16(len(buf)-body))
	return le.AppendUint32(buf, crc32.Checksum(buf[start:], castagnoli))
}

// readGreeting reads one greeting. Errors wrap errMalformed or come from the
// reader.
func readGreeting(r *bufio.Reader) (*greeting, error) {
	const headBytes = len(greetingMagic) + 2
	head := make([]byte, headBytes)
	if n, err := io.ReadFull(r, head); err != nil {
		if n > 0 && !strings.HasPrefix(greetingMagic, string(head[:min(n, len(greetingMagic))])) {
			return nil, notAPeer(head)
		}
		return nil, err
	}
	if string(head[:len(greetingMagic)]) != greetingMagic {
		return nil, notAPeer(head)
	}
	length := int(binary.LittleEndian.Uint16(head[len(greetingMagic):]))
	if length > greetingBodyMax {
		return nil, malformed("greeting of %d bytes: at most %d", length, greetingBodyMax)
	}
	rest := make([]byte, length+4)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, unexpected(err)
	}
	crc := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, rest[:length])
	if crc != binary.LittleEndian.Uint32(rest[length:]) {
		return nil, malformed("greeting checksum")
	}
	return parseGreeting(rest[:length])
}

// notAPeer says what the first bytes of a connection are instead of a greeting.
func notAPeer(head []byte) error {
	if head[0] == 0x16 && head[1] == 3 { // a handshake record of TLS
		return malformed("the dialler speaks TLS, and this node has no cluster secret")
	}
	return malformed("not a Quorate peer")
}

func parseGreeting(body []byte) (*greeting, error) {
	const fixedBytes = 1 + 2 + 2 + 1 + 1 + 8 + 8 + 8 + 1
	if len(body) < fixedBytes {
		return nil, malformed("greeting of %d bytes", len(body))
	}
	le := binary.LittleEndian
	g := &greeting{
		kind:       greetingKind(body[0]),
		versionMin: le.Uint16(body[1:]),
		versionMax: le.Uint16(body[3:]),
		class:      Class(body[5]),
		byAddress:  body[6] != 0,
		self:       kv.NodeID(le.Uint64(body[7:])),
		expected:   kv.NodeID(le.Uint64(body[15:])),
		clockUs:    int64(le.Uint64(body[23:])),
		refusal:    refusal(body[31]),
	}
	body = body[fixedBytes:]
	for _, text := range []*string{&g.cluster, &g.advertise, &g.text} {
		if len(body) < 2 {
			return nil, malformed("greeting is cut short")
		}
		n := int(le.Uint16(body))
		if body = body[2:]; n > greetingTextMax || n > len(body) {
			return nil, malformed("greeting text of %d bytes", n)
		}
		if *text, body = string(body[:n]), body[n:]; !utf8.ValidString(*text) {
			return nil, malformed("greeting text is not UTF-8")
		}
	}
	if len(body) > 0 {
		g.renewal = body[0]&flagRenewal != 0
	}
	if g.self == 0 || g.kind < greetHello || g.kind > greetRefusal || g.class >= classCount {
		return nil, malformed("greeting kind %d, node %d, class %d", g.kind, g.self, g.class)
	}
	return g, nil
}

// judgeHello decides, for a listener with the given identity, what to answer a
// hello.
func judgeHello(hello *greeting, self kv.NodeID, cluster string) (version uint16, no *refusalError) {
	refuse := func(r refusal, format string, args ...any) (uint16, *refusalError) {
		return 0, &refusalError{reason: r, by: hello.self, text: fmt.Sprintf(format, args...)}
	}
	version = min(hello.versionMax, protocolMax)
	switch {
	case version < hello.versionMin || version < protocolMin:
		return refuse(refuseVersion, "node %s speaks peer protocol %d to %d, the dialler %d to %d",
			self, protocolMin, protocolMax, hello.versionMin, hello.versionMax)
	case hello.self == self:
		return refuse(refuseSelf, "node %s dialled itself", self)
	case hello.expected != 0 && hello.expected != self:
		return refuse(refuseNode, "this is node %s, not %s", self, hello.expected)
	case !hello.byAddress && foreign(hello.cluster, cluster):
		return refuse(refuseCluster, "node %s is of cluster %s, the dialler of %s", self, cluster, hello.cluster)
	}
	return version, nil
}

// judgeWelcome decides, for the dialler who sent hello, whether a welcome will
// do.
func judgeWelcome(welcome, hello *greeting) *refusalError {
	refuse := func(r refusal, format string, args ...any) *refusalError {
		return &refusalError{reason: r, by: welcome.self, text: fmt.Sprintf(format, args...)}
	}
	v := welcome.versionMax
	switch {
	case v < hello.versionMin || v > hello.versionMax:
		return refuse(refuseVersion, "node %s chose peer protocol %d, which was not offered", welcome.self, v)
	case welcome.self == hello.self:
		return refuse(refuseSelf, "node %s dialled itself", hello.self)
	case hello.expected != 0 && hello.expected != welcome.self:
		return refuse(refuseNode, "dialled node %s and found %s", hello.expected, welcome.self)
	case !hello.byAddress && foreign(welcome.cluster, hello.cluster):
		return refuse(refuseCluster, "node %s is of cluster %s, this node of %s", welcome.self, welcome.cluster, hello.cluster)
	}
	return nil
}

// foreign: both are in a cluster, and not in the same.
func foreign(a, b string) bool { return a != "" && b != "" && a != b }

// fellows: both are in the same cluster.
func fellows(a, b string) bool { return a != "" && a == b }

// clip cuts text to at most n bytes, at a character.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// PeerInfo is what a handshake told about the other end.
type PeerInfo struct {
	ID        kv.NodeID
	Cluster   string // "" = in no cluster yet
	Advertise string // where it says it is dialled
	// Skew is its wall clock minus ours, as it was when the greeting was read: off
	// by the time that the greeting travelled.
	Skew     time.Duration
	Incoming bool // it dialled us
}

func infoOf(g *greeting, incoming bool) PeerInfo {
	skew := time.Duration(g.clockUs-time.Now().UnixMicro()) * time.Microsecond
	return PeerInfo{ID: g.self, Cluster: g.cluster, Advertise: g.advertise, Skew: skew, Incoming: incoming}
}
