package peer

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
)

func TestGreetingRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 40, 100)
		g := &greeting{
			kind:       greetingKind(rapid.IntRange(1, 3).Draw(t, "kind")),
			versionMin: rapid.Uint16().Draw(t, "min"),
			versionMax: rapid.Uint16().Draw(t, "max"),
			class:      Class(rapid.IntRange(0, int(classCount)-1).Draw(t, "class")),
			byAddress:  rapid.Bool().Draw(t, "by address"),
			self:       kv.NodeID(rapid.Uint64Min(1).Draw(t, "self")),
			expected:   kv.NodeID(rapid.Uint64().Draw(t, "expected")),
			clockUs:    rapid.Int64().Draw(t, "clock"),
			cluster:    text.Draw(t, "cluster"),
			advertise:  text.Draw(t, "advertise"),
			refusal:    refusal(rapid.Byte().Draw(t, "refusal")),
			text:       text.Draw(t, "text"),
		}
		data := appendGreeting(nil, g)
		got, err := readGreeting(bufio.NewReader(bytes.NewReader(data)))
		if err != nil || *got != *g {
			t.Fatalf("got %+v, %v; want %+v", got, err, g)
		}
		data[rapid.IntRange(0, len(data)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		if _, err := readGreeting(bufio.NewReader(bytes.NewReader(data))); err == nil {
			t.Fatal("a flipped byte went unseen")
		}
	})
}

func TestGreetingOfALaterRelease(t *testing.T) {
	g := &greeting{kind: greetHello, versionMin: 7, versionMax: 9, self: 3, cluster: "c"}
	body := appendGreeting(nil, g)
	body = body[len(greetingMagic)+2 : len(body)-4]
	got, err := parseGreeting(append(body, "fields of the future"...))
	if err != nil || *got != *g {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestGreetingMalformed(t *testing.T) {
	good := appendGreeting(nil, &greeting{kind: greetHello, self: 1, cluster: "cluster"})
	for name, c := range map[string]struct {
		data []byte
		is   error
	}{
		"nothing":     {nil, io.EOF},
		"cut short":   {good[:20], io.ErrUnexpectedEOF},
		"HTTP":        {[]byte("GET / HTTP/1.1\r\n\r\n"), errMalformed},
		"some HTTP":   {[]byte("GET"), errMalformed},
		"TLS":         {[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), errMalformed},
		"long":        {append([]byte(greetingMagic), 0xff, 0xff, 0), errMalformed},
		"no body":     {seal(append([]byte(greetingMagic), 0, 0, 0, 0, 0, 0)), errMalformed},
		"node 0":      {appendGreeting(nil, &greeting{kind: greetHello}), errMalformed},
		"kind 9":      {appendGreeting(nil, &greeting{kind: 9, self: 1}), errMalformed},
		"class 9":     {appendGreeting(nil, &greeting{kind: greetHello, self: 1, class: 9}), errMalformed},
		"not UTF-8":   {appendGreeting(nil, &greeting{kind: greetHello, self: 1, cluster: "\xff"}), errMalformed},
		"sound":       {good, nil},
		"sound, long": {appendGreeting(nil, &greeting{kind: greetHello, self: 1, cluster: strings.Repeat("ä", 900)}), nil},
	} {
		if _, err := readGreeting(bufio.NewReader(bytes.NewReader(c.data))); !errors.Is(err, c.is) {
			t.Errorf("%s: got %v, want %v", name, err, c.is)
		}
	}
}

func FuzzGreeting(f *testing.F) {
	f.Add(appendGreeting(nil, &greeting{kind: greetHello, self: 1, cluster: "cluster", advertise: "a:1"}))
	f.Add(appendGreeting(nil, &greeting{kind: greetRefusal, self: 1, refusal: refuseNode, text: "no"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4 {
			data = seal(data)
		}
		g, err := readGreeting(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		_, _ = judgeHello(g, 1, "cluster")
		_ = judgeWelcome(g, &greeting{kind: greetHello, self: 1, versionMin: 1, versionMax: 1})
	})
}

// TestHandshakeMatrix: who is let in by the listener and, where the listener is
// one that does not look, who is accepted by the dialler.
func TestHandshakeMatrix(t *testing.T) {
	const listener, dialler, other kv.NodeID = 1, 2, 3
	for _, c := range []struct {
		name           string
		hello          greeting
		cluster        string
		refused        refusal
		onlyAtListener bool
	}{
		{"same cluster", greeting{cluster: "a", expected: listener}, "a", refuseNothing, false},
		{"other cluster", greeting{cluster: "b", expected: listener}, "a", refuseCluster, false},
		{"other cluster by address", greeting{cluster: "b", byAddress: true}, "a", refuseNothing, false},
		{"dialler in none", greeting{expected: listener}, "a", refuseNothing, false},
		{"listener in none", greeting{cluster: "a", expected: listener}, "", refuseNothing, false},
		{"neither in any", greeting{expected: listener}, "", refuseNothing, false},
		{"unexpected node", greeting{cluster: "a", expected: other}, "a", refuseNode, false},
		{"whoever", greeting{cluster: "a"}, "a", refuseNothing, false},
		{"itself", greeting{self: listener, cluster: "a"}, "a", refuseSelf, false},
		{"itself by address", greeting{self: listener, byAddress: true}, "a", refuseSelf, false},
		{"newer", greeting{versionMin: protocolMax + 1, versionMax: protocolMax + 3}, "a", refuseVersion, true},
		{"older", greeting{versionMin: 0, versionMax: 0}, "a", refuseVersion, true},
		{"newer and ours", greeting{versionMin: 1, versionMax: protocolMax + 3, cluster: "a"}, "a", refuseNothing, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			hello := c.hello
			hello.kind = greetHello
			if hello.self == 0 {
				hello.self = dialler
			}
			if hello.versionMax == 0 && c.refused != refuseVersion {
				hello.versionMin, hello.versionMax = protocolMin, protocolMax
			}
			check := func(end string, no *refusalError) {
				t.Helper()
				got := refuseNothing
				if no != nil {
					if got = no.reason; no.text == "" || got.String() == "unknown" {
						t.Errorf("%s refuses without words", end)
					}
				}
				if got != c.refused {
					t.Errorf("%s: refused for %s, want %s", end, got, c.refused)
				}
			}
			version, no := judgeHello(&hello, listener, c.cluster)
			check("listener", no)
			if no == nil && version != protocolMax {
				t.Errorf("chose protocol %d", version)
			}
			if !c.onlyAtListener {
				welcome := greeting{kind: greetWelcome, self: listener, cluster: c.cluster, versionMin: 1, versionMax: 1}
				check("dialler", judgeWelcome(&welcome, &hello))
			}
		})
	}
	hello := greeting{kind: greetHello, self: dialler, versionMin: 1, versionMax: 1}
	if no := judgeWelcome(&greeting{self: listener, versionMax: 2}, &hello); no == nil || no.reason != refuseVersion {
		t.Errorf("a protocol that was not offered: %v", no)
	}
}
