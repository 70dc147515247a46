package peer

import (
	"bufio"
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/quorate-db/quorate/kv"
)

// noiseFrames is how many malformed frames and greetings are sent into the decoders;
// QUORATE_SOAK multiplies it.
const noiseFrames = 100_000

func soak() int {
	if n, err := strconv.Atoi(os.Getenv("QUORATE_SOAK")); err == nil && n > 0 {
		return n
	}
	return 1
}

// heap gives the bytes that live.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// spoil makes noise of bytes that were sound, and repairs the checksum half of the
// time, so that what is behind it is reached too.
func spoil(rnd *rand.Rand, sound []byte) []byte {
	data := bytes.Clone(sound)
	for range 1 + rnd.IntN(4) {
		switch rnd.IntN(5) {
		case 0:
			data[rnd.IntN(len(data))] ^= byte(1 + rnd.IntN(255))
		case 1:
			data = data[:1+rnd.IntN(len(data))]
		case 2: // a length, most likely
			data[rnd.IntN(min(8, len(data)))] = [...]byte{0, 1, 0x7f, 0x80, 0xff}[rnd.IntN(5)]
		case 3:
			for i := range 1 + rnd.IntN(8) {
				data = append(data, byte(rnd.Uint32()>>i))
			}
		case 4:
			i := rnd.IntN(len(data))
			data = append(data[:i:i], data[min(len(data), i+1+rnd.IntN(8)):]...)
		}
		if len(data) == 0 {
			data = []byte{byte(rnd.Uint32())}
		}
	}
	if rnd.IntN(2) == 0 && len(data) > 4 {
		data = seal(data)
	}
	return data
}

// sounds are frames and greetings that noise is made of.
func sounds() (greetings, frames [][]byte) {
	for kind := greetHello; kind <= greetRefusal; kind++ {
		greetings = append(greetings, appendGreeting(nil, &greeting{kind: kind, versionMin: 1, versionMax: 1, self: 9, expected: 1, cluster: "test", advertise: "a.example:1", text: "no"}))
	}
	for kind := kindRequest; kind < kindEnd; kind++ {
		frames = append(frames, appendFrame(nil, frameHeader{kind: kind, method: uint16(MethodTerms), id: 7, left: 1000}, bytes.Repeat([]byte{1, 2, 3}, 20)))
	}
	return greetings, append(frames, appendFrame(nil, frameHeader{kind: kindFailure, id: 1}, encodeFailure(errors.New("x"))))
}

// TestNoiseInTheDecoders: nothing that comes, before the handshake or after it, ends the
// process or leaves memory behind.
func TestNoiseInTheDecoders(t *testing.T) {
	greetings, frames := sounds()
	rnd := rand.New(rand.NewPCG(1, 7))
	before := heap()
	taken := 0
	in := bufio.NewReaderSize(nil, wireReadBytes)
	for range noiseFrames * soak() {
		if rnd.IntN(2) == 0 {
			in.Reset(bytes.NewReader(spoil(rnd, greetings[rnd.IntN(len(greetings))])))
			if g, err := readGreeting(in); err == nil {
				taken++
				_, _ = judgeHello(g, 1, "test")
				_ = judgeWelcome(g, &greeting{kind: greetHello, self: 1, versionMin: 1, versionMax: 1})
			}
			continue
		}
		in.Reset(bytes.NewReader(spoil(rnd, frames[rnd.IntN(len(frames))])))
		for {
			h, payload, err := readFrame(in, frameStrangerMax)
			if err != nil {
				break
			}
			taken++
			_ = goodbye(h, payload)
			_, _ = decodeFailure(payload)
		}
	}
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("%d bytes are left", grown)
	}
	if taken < 100 {
		t.Errorf("only %d were taken: the noise stops at the checksum", taken)
	}
	t.Logf("%d malformed, %d taken", noiseFrames*soak(), taken)
}

// TestNoiseAtThePort: the same over connections, of which each dies of it, and a member
// is served meanwhile. No goroutine is left: TestMain looks.
func TestNoiseAtThePort(t *testing.T) {
	var n Loopback
	m := n.started(t, 1)
	a := n.started(t, 2)
	reach(t, a, 1)
	greetings, frames := sounds()
	rnd := rand.New(rand.NewPCG(2, 7))
	for i := range 500 * soak() {
		c := rawDial(t, n.Address(1))
		if i%2 == 0 {
			_, _ = c.Write(spoil(rnd, greetings[rnd.IntN(len(greetings))]))
		} else {
			c.greet(t, func(g *greeting) {
				g.self = kv.NodeID(100 + i)
				if i%4 == 1 {
					g.cluster = ""
				}
			})
			for range 20 {
				if _, err := c.Write(spoil(rnd, frames[rnd.IntN(len(frames))])); err != nil {
					break
				}
			}
		}
		_ = c.Close()
		if i%100 == 0 {
			if got := await(t, "a member", ask(a, 1, MethodTerms, []byte("x"), patience)); got.err != nil {
				t.Fatal(got.err)
			}
		}
	}
	eventually(t, "they are gone", func() bool {
		m.door.mu.Lock()
		defer m.door.mu.Unlock()
		return m.door.greeting == 0 && m.door.strangers == 0 && len(m.door.crowds) <= 1 && m.door.inside <= int(classCount)
	})
}
