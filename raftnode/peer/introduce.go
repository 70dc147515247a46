package peer

import (
	"context"
	"net"
)

// introduce secures a connection that was dialled, and greets.
func (t *TCP) introduce(ctx context.Context, conn net.Conn, hello *greeting) (*wire, *greeting, error) {
	conn, err := t.secure(ctx, conn, hello.cluster, true)
	if err != nil {
		return nil, nil, err
	}
	w := t.newWire(conn)
	welcome, err := greet(conn, w, hello)
	return w, welcome, err
}

// greet sends a hello over a new connection and judges the answer.
func greet(conn net.Conn, w *wire, hello *greeting) (*greeting, error) {
	if _, err := conn.Write(appendGreeting(nil, hello)); err != nil {
		return nil, err
	}
	answer, err := readGreeting(w.in)
	if err != nil {
		return nil, err
	}
	switch answer.kind {
	case greetRefusal:
		return nil, &refusalError{reason: answer.refusal, by: answer.self, text: answer.text}
	case greetWelcome:
		no := judgeClaim(conn, answer)
		if no == nil {
			no = judgeWelcome(answer, hello)
		}
		if no != nil {
			return nil, no
		}
		return answer, nil
	default:
		return nil, malformed("greeting kind %d from a listener", answer.kind)
	}
}
