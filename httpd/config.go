package httpd

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// configBodyMax bounds a body with settings, which are few.
const configBodyMax = 64 << 10

// configTries is how often a change without If-Match is put onto settings that
// have changed meanwhile, configPause the wait between: this node may hear of them late.
const (
	configTries = 20
	configPause = 50 * time.Millisecond
)

func (x *exchange) replyConfig(c *kv.ClusterConfig) error {
	x.w.Header()["Etag"] = []string{`"` + strconv.FormatUint(c.Revision, 10) + `"`}
	return x.reply(asConfigJSON(c))
}

func (s *Server) getConfig(x *exchange) error {
	admin, err := x.look()
	if err != nil {
		return err
	}
	c, err := admin.Config(x.ctx)
	if err != nil {
		return err
	}
	return x.replyConfig(&c)
}

// putConfig serves PUT /v1/config: all settings are given.
func (s *Server) putConfig(x *exchange) error { return s.changeConfig(x, true) }

// patchConfig serves PATCH /v1/config: what is not given stays (RFC 7396; there is
// nothing that null could remove).
func (s *Server) patchConfig(x *exchange) error { return s.changeConfig(x, false) }

func (s *Server) changeConfig(x *exchange, whole bool) error {
	if err := x.unrepeatable(); err != nil {
		return err
	}
	if err := x.plain(); err != nil {
		return err
	}
	tags, err := parseTags("If-Match", x.r.Header["If-Match"], false)
	if err != nil {
		return err
	}
	body, err := x.configBody(whole)
	if err != nil {
		return err
	}
	if body.seen&(1<<fRevision) != 0 {
		if tags.given && !tags.has(kv.Version(body.config.Revision)) {
			return invalid("revision: the body and If-Match do not agree")
		}
		tags = tagList{given: true, versions: []uint64{body.config.Revision}}
	}
	admin, err := x.admin()
	if err != nil {
		return err
	}
	c, err := x.setConfig(admin, &body, tags)
	if err != nil {
		return err
	}
	return x.replyConfig(&c)
}

func (x *exchange) configBody(whole bool) (configBody, error) {
	mt, err := x.mediaType()
	if err != nil {
		return configBody{}, err
	}
	if mt != "application/json" && (whole || mt != "application/merge-patch+json") {
		want := "application/json"
		if !whole {
			want += " or application/merge-patch+json"
		}
		return configBody{}, refusal(codeUnsupportedMedia, "send Content-Type: "+want)
	}
	if err := x.plainBody(); err != nil {
		return configBody{}, err
	}
	raw, err := x.readBody(configBodyMax)
	if err != nil {
		return configBody{}, err
	}
	body, err := parseConfig(raw)
	if err != nil {
		return body, err
	}
	if m := body.missing(); whole && m != "" {
		return body, invalid("body: " + m + " missing; PATCH changes some settings and leaves the others")
	}
	return body, nil
}

// setConfig puts the body onto the settings as they are. Without a condition it
// begins again when they changed meanwhile.
func (x *exchange) setConfig(admin Admin, body *configBody, tags tagList) (kv.ClusterConfig, error) {
	conditional := tags.given && !tags.any
	for try := 1; ; try++ {
		now, err := admin.Config(x.ctx)
		if err != nil {
			return now, x.notBegun(err)
		}
		if conditional && !tags.has(kv.Version(now.Revision)) {
			return now, &kv.Error{Code: kv.CodeConditionFailed, Outcome: kv.OutcomeNotApplied, Version: kv.Version(now.Revision),
				Detail: "the settings have another revision"}
		}
		next := body.over(now)
		if err := next.Validate(); err != nil {
			return next, invalid(err.Error())
		}
		next, err = admin.SetConfig(x.ctx, next)
		if err == nil || conditional || kv.CodeOf(err) != kv.CodeConditionFailed || try == configTries {
			return next, err
		}
		pause := time.NewTimer(configPause)
		select {
		case <-pause.C:
		case <-x.ctx.Done():
			pause.Stop()
			return next, err
		}
	}
}

// notBegun makes the error of a read that a change begins with one that says that
// nothing was changed.
func (x *exchange) notBegun(err error) error {
	var e *kv.Error
	read := x.method == http.MethodGet || x.method == http.MethodHead
	if read || !errors.As(err, &e) || e.Outcome != kv.OutcomeNone {
		return err
	}
	told := *e
	told.Outcome = kv.OutcomeNotApplied
	return &told
}
