//go:build blackbox

package hostile

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"net"
	"time"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sealed(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// hello is the greeting of a node that is in no cluster.
func hello(self uint64) []byte {
	le := binary.LittleEndian
	body := []byte{1, 1, 0, 1, 0, 0, 0} // a hello, protocols 1 to 1, class 0, not by address
	body = le.AppendUint64(body, self)
	body = le.AppendUint64(body, 0)
	body = le.AppendUint64(body, uint64(time.Now().UnixMicro()))
	body = append(body, 0, 0, 0, 0, 0, 0, 0) // no refusal, three empty texts
	b := le.AppendUint16([]byte("QRTP"), uint16(len(body)))
	return sealed(append(b, body...))
}

// frame is a frame of a kind that claims a length; 0 = the right one.
func frame(kind byte, claimed uint32, payload []byte) []byte {
	le := binary.LittleEndian
	if claimed == 0 {
		claimed = uint32(20 + len(payload))
	}
	b := le.AppendUint32(nil, claimed)
	b = append(b, kind, 0, 0, 0)
	b = le.AppendUint64(b, 7)
	b = le.AppendUint32(b, 1000)
	return sealed(append(b, payload...))
}

// greeted opens a connection to a node's peer port and greets; nil if it did not come
// to that.
func (a *attacker) greeted() net.Conn {
	conn := a.peer()
	if conn == nil {
		return nil
	}
	if _, err := conn.Write(hello(0xbad0000 + uint64(a.id))); err != nil {
		return nil
	}
	if _, err := io.ReadFull(conn, make([]byte, 6)); err != nil {
		return nil
	}
	return conn
}

func halfOpenPeers(a *attacker) { a.hold(40, a.peer, func(net.Conn) {}) }

func garbagePeers(a *attacker) {
	for i := byte(0); a.on(); i++ {
		conn := a.peer()
		if conn == nil {
			continue
		}
		text := hello(9)
		text[int(i)%len(text)] ^= 1 + i
		_, _ = conn.Write(text)
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
}

func hugeFrames(a *attacker) {
	for a.on() {
		if conn := a.greeted(); conn != nil {
			_, _ = conn.Write(frame(1, 0xffffffff, nil))
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}
}

// endlessFrames claims the most that a stranger may, and never sends the end.
func endlessFrames(a *attacker) {
	a.hold(40, a.greeted, func(conn net.Conn) { _, _ = conn.Write(frame(1, 1<<20-4, make([]byte, 900<<10))) })
}

func pingFlood(a *attacker) {
	var pings []byte
	for range 2000 {
		pings = append(pings, frame(4, 0, nil)...)
	}
	a.hold(20, a.greeted, func(conn net.Conn) {
		go func() {
			for a.on() {
				if _, err := conn.Write(pings); err != nil {
					return
				}
			}
		}()
	})
}

func peerTLS(a *attacker) {
	a.hold(60, a.peer, func(conn net.Conn) { _, _ = io.WriteString(conn, clientHello) })
}
