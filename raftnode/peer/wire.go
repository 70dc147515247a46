package peer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Frames up to wireSmallBytes are copied into a shared segment of up to
	// wireSegmentBytes; larger ones travel in a segment of their own.
	wireSmallBytes   = 8 << 10
	wireSegmentBytes = 64 << 10
	wireReadBytes    = 32 << 10
	// wireWriteBytes is the most that is written at once.
	wireWriteBytes = 1 << 20
)

var (
	errWireClosed = errors.New("connection is closed")
	errWireFull   = errors.New("queue is full")
)

// wire is one greeted connection: a queue of frames with the goroutine that
// writes them, and a buffered reader for whoever owns the wire.
//
// Invariants:
//  1. Frames are written whole, in the order of enqueue.
//  2. While frames are queued, either busy is set and the writer will look again,
//     or the writer has ended.
//  3. After close or fail, nothing is enqueued any more.
type wire struct {
	conn   net.Conn
	secure Secured // conn, nil if it is not secured
	class  Class
	in     *bufio.Reader
	meter  *meter
	hooks  *Hooks
	pool   *segmentPool
	linger time.Duration
	// flushed is called by the writer after each flush and when it ends, without
	// locks.
	flushed func()

	wake       chan struct{} // holds one token: busy was set
	writer     sync.WaitGroup
	writeSince atomic.Int64 // clock reading when the running write began, 0 = none

	mu       sync.Mutex
	segments [][]byte // to be written; the last may grow while it has room
	frames   int      // in segments
	queued   int      // bytes in segments and in the running write
	busy     bool
	closing  bool
	ended    chan struct{} // closed by fail
	err      error         // why, of the first fail or close
}

// segmentPool keeps empty segments of exactly wireSegmentBytes.
type segmentPool struct{ pool sync.Pool }

func (p *segmentPool) get() []byte {
	if s, ok := p.pool.Get().(*[wireSegmentBytes]byte); ok {
		return s[:0]
	}
	return make([]byte, 0, wireSegmentBytes)
}

// put takes a segment back, unless it is one that was made for a large frame.
func (p *segmentPool) put(s []byte) {
	if cap(s) == wireSegmentBytes {
		p.pool.Put((*[wireSegmentBytes]byte)(s[:wireSegmentBytes]))
	}
}

// meter reads from a connection and notes when and how much.
type meter struct {
	conn  net.Conn
	clock func() int64
	last  atomic.Int64 // clock reading of the last byte
	bytes int          // since the reader last took it
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.conn.Read(p)
	m.last.Store(m.clock())
	m.bytes += n
	return n, err
}

// newWire makes a wire; start starts it. Until then only its reader may be used.
func (t *TCP) newWire(conn net.Conn) *wire {
	m := &meter{conn: conn, clock: t.clock}
	m.last.Store(t.clock())
	secure, _ := conn.(Secured)
	return &wire{
		conn:   conn,
		secure: secure,
		in:     bufio.NewReaderSize(m, wireReadBytes),
		meter:  m,
		hooks:  &t.opts.Hooks,
		pool:   &t.segments,
		linger: t.opts.Timing.Linger,
		wake:   make(chan struct{}, 1),
		ended:  make(chan struct{}),
	}
}

// start starts the writer. The class must be set, before others know the wire.
func (w *wire) start(flushed func()) {
	w.flushed = flushed
	w.writer.Go(w.write)
}

// enqueue takes a frame, copying the payload, if no more than limit bytes are
// queued with it; the first frame always fits. It never blocks.
func (w *wire) enqueue(h frameHeader, payload []byte, limit int) error {
	size := frameBytes(len(payload))
	var own []byte
	if size > wireSmallBytes {
		own = appendFrame(make([]byte, 0, size), h, payload)
	}
	w.mu.Lock()
	if w.closing {
		w.mu.Unlock()
		return errWireClosed
	}
	if w.queued > 0 && w.queued+size > limit {
		w.mu.Unlock()
		return errWireFull
	}
	if own != nil {
		w.segments = append(w.segments, own)
	} else {
		tail := w.tailLocked(size)
		*tail = appendFrame(*tail, h, payload)
	}
	w.frames++
	w.queued += size
	ring := !w.busy
	w.busy = true
	w.mu.Unlock()
	if ring {
		w.ring()
	}
	return nil
}

func (w *wire) ring() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// tailLocked gives the segment to which a small frame is appended.
func (w *wire) tailLocked(size int) *[]byte {
	if n := len(w.segments); n > 0 && len(w.segments[n-1])+size <= wireSegmentBytes {
		return &w.segments[n-1]
	}
	w.segments = append(w.segments, w.pool.get())
	return &w.segments[len(w.segments)-1]
}

// write is the writer: it flushes whatever is queued at once.
func (w *wire) write() {
	defer w.flushed()
	var out net.Buffers
	for {
		select {
		case <-w.wake:
		case <-w.ended:
			return
		}
		// Whoever else is about to enqueue something goes first, so that one call to the
		// system takes it along. It takes no time where nobody is.
		runtime.Gosched()
		for {
			w.mu.Lock()
			segments, frames := w.segments, w.frames
			if len(segments) == 0 {
				w.busy = false
				closing := w.closing
				w.mu.Unlock()
				if closing {
					w.halfClose()
					return
				}
				break
			}
			w.segments, w.frames = out[:0], 0
			w.mu.Unlock()
			if !w.flush(segments, frames) {
				return
			}
			clear(segments)
			out = segments
			w.flushed()
		}
	}
}

// flush writes segments to the connection.
func (w *wire) flush(segments [][]byte, frames int) bool {
	size := 0
	for _, s := range segments {
		size += len(s)
	}
	var err error
	if size <= wireWriteBytes {
		err = w.push(segments)
	} else {
		for i := 0; i < len(segments) && err == nil; i++ {
			err = w.pushLarge(segments[i])
		}
	}
	w.mu.Lock()
	w.queued -= size
	w.mu.Unlock()
	for _, s := range segments {
		w.pool.put(s)
	}
	if err != nil {
		w.fail(err)
		return false
	}
	w.hooks.Sent(w.class, frames, size)
	return true
}

// push writes segments with one call to the system where that is possible.
func (w *wire) push(segments [][]byte) (err error) {
	w.writeSince.Store(w.meter.clock())
	if w.secure != nil {
		err = w.secure.WriteAll(segments)
	} else if len(segments) == 1 {
		_, err = w.conn.Write(segments[0])
	} else {
		bufs := append(net.Buffers(nil), segments...) // WriteTo consumes it
		_, err = bufs.WriteTo(w.conn)
	}
	w.writeSince.Store(0)
	return err
}

// pushLarge writes a segment in pieces. A full piece that left is a sign of life:
// the answer to a ping behind it may take long.
func (w *wire) pushLarge(segment []byte) error {
	for len(segment) > 0 {
		piece := segment[:min(len(segment), wireWriteBytes)]
		if err := w.push([][]byte{piece}); err != nil {
			return err
		}
		if segment = segment[len(piece):]; len(piece) == wireWriteBytes {
			w.meter.last.Store(w.meter.clock())
		}
	}
	return nil
}

// close says goodbye: the queue is still written, then a frame that tells why,
// then the sending half is closed; all within the linger time. The owner reads
// on until the other end closes too.
func (w *wire) close(code closeCode, reason error) {
	text := clip(reason.Error(), closeTextBytesMax)
	h := frameHeader{kind: kindClose, method: uint16(code)}
	if w.enqueue(h, []byte(text), math.MaxInt) != nil {
		return
	}
	w.mu.Lock()
	if !w.closing {
		w.closing = true
		w.err = reason
	}
	w.mu.Unlock()
	// From here on nothing takes longer than the linger time.
	_ = w.conn.SetDeadline(time.Now().Add(w.linger))
	w.ring()
}

// fail closes the connection at once.
func (w *wire) fail(reason error) {
	w.mu.Lock()
	w.closing = true
	if w.err == nil {
		w.err = reason
	}
	select {
	case <-w.ended:
	default:
		close(w.ended)
	}
	w.mu.Unlock()
	_ = w.conn.Close()
}

// reason gives why the wire was closed, nil while it is open.
func (w *wire) reason() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *wire) closed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closing
}

func (w *wire) queuedBytes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queued
}

func (w *wire) halfClose() {
	if c, ok := w.conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// finish ends a wire whose reader has ended with err, and waits for the writer.
// Bytes of ours that the other end did not expect are answered with a goodbye.
func (w *wire) finish(err error) {
	if errors.Is(err, errMalformed) {
		w.close(closeFault, err)
	}
	if w.closed() {
		w.writer.Wait()
		// What the other end still sends would reset the connection and take our
		// goodbye with it.
		_, _ = io.Copy(io.Discard, w.conn)
	}
	w.fail(err)
	w.writer.Wait()
}

// next reads a frame. It reports what arrived whenever the reader runs dry.
func (w *wire) next(limit int, tally *int) (frameHeader, []byte, error) {
	h, payload, err := readFrame(w.in, limit)
	if err == nil {
		*tally++
	}
	if *tally > 0 && (err != nil || w.in.Buffered() < frameHeaderBytes) {
		w.hooks.Received(w.class, *tally, w.meter.bytes)
		*tally, w.meter.bytes = 0, 0
	}
	return h, payload, err
}

// check finds a peer that has gone silent: one write running, or nothing read, for
// longer than dead, not counting how long this process has just stood still. Where both
// hold, the write says more.
func (w *wire) check(now int64, stood, dead time.Duration) {
	excuse(&w.writeSince, now, stood)
	excuse(&w.meter.last, now, stood)
	if since := w.writeSince.Load(); since != 0 && time.Duration(now-since) > dead {
		w.fail(fmt.Errorf("one write took %v", time.Duration(now-since).Round(time.Millisecond)))
	}
	if silent := time.Duration(now - w.meter.last.Load()); silent > dead {
		w.fail(fmt.Errorf("nothing heard for %v", silent.Round(time.Millisecond)))
	}
}

// excuse moves a clock reading up by the time that does not count, unless somebody has
// just replaced it, which is newer than both.
func excuse(reading *atomic.Int64, now int64, stood time.Duration) {
	if at := reading.Load(); at != 0 && stood > 0 {
		reading.CompareAndSwap(at, min(now, at+int64(stood)))
	}
}
