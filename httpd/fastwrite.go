package httpd

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// fastCopyMax is up to which size a body is copied behind the head, so that both
	// leave in one call to the system without a list of buffers.
	fastCopyMax = 32 << 10
)

// fastResponse is the http.ResponseWriter of a fastConn. The handlers of keys know
// how long their answers are; what does not say so is collected to its end.
type fastResponse struct {
	header http.Header
	head   bool   // no body is sent: the answer to a HEAD
	status int    // 0: nothing was written
	out    []byte // the head but for its last line, then the whole answer
	body   []byte // collected
	length int    // declared; -1: not
	closes bool   // the answer says that the connection ends

	conn *fastConn // nil: nothing is written before send
	sent bool      // by sendLarge already, and
	ok   bool      // whether that left the connection good
}

func (w *fastResponse) reset(method string) {
	clear(w.header)
	*w = fastResponse{conn: w.conn, header: w.header, head: method == http.MethodHead, out: w.out[:0], body: w.body[:0], length: -1}
	if cap(w.out) > 2*fastCopyMax {
		w.out = nil
	}
	if cap(w.body) > 2*fastCopyMax {
		w.body = nil
	}
}

// Header gives the response's headers.
func (w *fastResponse) Header() http.Header { return w.header }

// WriteHeader writes status line and headers as they are now; only the first call
// counts.
func (w *fastResponse) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	b := append(w.out, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, "\r\n"...)
	for name, values := range w.header {
		if !isToken(name) {
			continue
		}
		for _, v := range values {
			b = appendField(b, name, v)
		}
	}
	if w.header["Date"] == nil {
		b = appendField(b, "Date", httpDate())
	}
	if v := w.header["Content-Length"]; len(v) == 1 {
		if n, err := strconv.Atoi(v[0]); err == nil {
			w.length = n
		}
	}
	if v := w.header["Connection"]; len(v) > 0 {
		w.closes = v[0] == "close"
	}
	w.out = b
}

// appendField writes a header line. A value cannot end its line.
func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	if strings.ContainsAny(value, "\r\n") {
		value = strings.NewReplacer("\r", " ", "\n", " ").Replace(value)
	}
	return append(append(b, value...), "\r\n"...)
}

// Write takes a part of the body.
func (w *fastResponse) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.hasBody() {
		if w.head {
			return len(p), nil
		}
		return 0, http.ErrBodyNotAllowed
	}
	if w.conn != nil && len(w.body) == 0 && len(p) == w.length && len(p) > fastCopyMax {
		return w.sendLarge(p)
	}
	w.body = append(w.body, p...)
	return len(p), nil
}

// SetReadDeadline does nothing: the body is there already.
func (w *fastResponse) SetReadDeadline(time.Time) error { return nil }

// hasBody reports whether a body follows the head.
func (w *fastResponse) hasBody() bool {
	return !w.head && w.status >= 200 && w.status != http.StatusNoContent && w.status != http.StatusNotModified
}

// send writes the whole answer; ends tells whether this was the connection's last.
// It reports whether the connection can be used for the next request.
func (w *fastResponse) send(nc net.Conn, ends bool) bool {
	if w.sent {
		return w.ok && !ends
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.length >= 0 && w.hasBody() && len(w.body) != w.length {
		return false // what was promised cannot be kept: the client is to notice
	}
	b := w.out
	if w.length < 0 && w.hasBody() {
		b = appendField(b, "Content-Length", strconv.Itoa(len(w.body)))
	}
	b = w.endHead(b, ends)
	var err error
	if len(w.body) <= fastCopyMax {
		b = append(b, w.body...)
		_, err = nc.Write(b)
	} else {
		parts := net.Buffers{b, w.body}
		_, err = parts.WriteTo(nc)
	}
	w.out = b
	return err == nil && !ends && !w.closes
}

func (w *fastResponse) endHead(b []byte, ends bool) []byte {
	if ends && !w.closes {
		b = appendField(b, "Connection", "close")
	}
	return append(b, "\r\n"...)
}

// sendLarge writes head and the whole body while the request is still there, which
// holds the bytes that it has counted of a large answer until its client has taken them.
func (w *fastResponse) sendLarge(body []byte) (int, error) {
	ends := w.conn.s.fast.ending()
	w.out = w.endHead(w.out, ends)
	parts := net.Buffers{w.out, body}
	_, err := parts.WriteTo(w.conn.nc)
	w.sent, w.ok = true, err == nil && !ends && !w.closes
	if err != nil {
		return 0, err
	}
	return len(body), nil
}

// dated is a second's Date header.
type dated struct {
	second int64
	text   string
}

var lastDate atomic.Pointer[dated]

// httpDate gives the time for a Date header.
func httpDate() string {
	now := time.Now()
	if d := lastDate.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &dated{second: now.Unix(), text: now.UTC().Format(http.TimeFormat)}
	lastDate.Store(d)
	return d.text
}
