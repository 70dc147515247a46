package httpd

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/mux"
)

// document is as much of the OpenAPI document as these tests look at themselves.
type document struct {
	Paths map[string]map[string]json.RawMessage `json:"paths"`

	Components struct {
		Schemas map[string]struct {
			Enum []string `json:"enum"`
		} `json:"schemas"`
		Headers map[string]struct {
			Schema struct {
				Pattern string   `json:"pattern"`
				Enum    []string `json:"enum"`
			} `json:"schema"`
		} `json:"headers"`
		Responses map[string]response `json:"responses"`
	} `json:"components"`
}

type operation struct {
	Responses map[string]response `json:"responses"`
}

type response struct {
	Ref     string                       `json:"$ref"`
	Headers map[string]map[string]string `json:"headers"`
}

var parsedDocument = sync.OnceValue(func() *document {
	var d document
	if err := json.Unmarshal(openAPIDocument(), &d); err != nil {
		panic(err)
	}
	return &d
})

func TestDocumentIsValid(t *testing.T) {
	if ok, errs := contract().ValidateDocument(); !ok {
		for _, e := range errs {
			t.Errorf("%s: %s %v", e.Message, e.Reason, e.SchemaValidationErrors)
		}
	}
}

func TestDocumentHasEveryRouteAndNoOther(t *testing.T) {
	var served []string
	s := New(Options{})
	err := s.mux.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		e := route.GetHandler().(*endpoint)
		for m := range strings.SplitSeq(e.allow, ", ") {
			served = append(served, m+" "+e.route)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for path, item := range parsedDocument().Paths {
		for m := range item {
			if m != "parameters" {
				documented = append(documented, strings.ToUpper(m)+" "+path)
			}
		}
	}
	sort.Strings(served)
	sort.Strings(documented)
	if !slices.Equal(served, documented) {
		t.Errorf("served:\n%s\ndocumented:\n%s", strings.Join(served, "\n"), strings.Join(documented, "\n"))
	}
}

func TestDocumentHasEveryCode(t *testing.T) {
	documented := parsedDocument().Components.Schemas["Code"].Enum
	for code := range problemTable {
		if !slices.Contains(documented, string(code)) {
			t.Errorf("code %s is not documented", code)
		}
	}
	if len(documented) != len(problemTable) {
		t.Errorf("%d codes documented, %d in the table", len(documented), len(problemTable))
	}
}

// validateHeaders holds the response headers of ours to those documented for the
// operation and status: each known, each of the documented form.
func (r *rig) validateHeaders(req *http.Request, resp *http.Response) {
	r.t.Helper()
	d := parsedDocument()
	template := documentedPath(d, req.URL.Path)
	var op operation
	if err := json.Unmarshal(d.Paths[template][strings.ToLower(req.Method)], &op); err != nil {
		r.t.Errorf("%s %s: %v", req.Method, template, err)
		return
	}
	status := resp.Status[:3]
	doc, ok := op.Responses[status]
	if !ok {
		return // the contract's default, which promises no headers
	}
	if name, ok := strings.CutPrefix(doc.Ref, "#/components/responses/"); ok {
		doc = d.Components.Responses[name]
	}
	known := map[string]string{}
	for name, ref := range doc.Headers {
		known[http.CanonicalHeaderKey(name)] = strings.TrimPrefix(ref["$ref"], "#/components/headers/")
	}
	for name, values := range resp.Header {
		ours := strings.HasPrefix(name, "Quorate-") || name == "Etag" || name == "Link" || name == "Allow" || name == "Retry-After"
		component, ok := known[name]
		if !ok {
			if ours && status != "405" && (status[0] < '4' || !strings.HasPrefix(name, "Quorate-")) {
				r.t.Errorf("header %s is not documented for %s %s %s", name, req.Method, template, status)
			}
			continue
		}
		schema := d.Components.Headers[component].Schema
		if schema.Pattern != "" && !regexp.MustCompile(schema.Pattern).MatchString(values[0]) {
			r.t.Errorf("header %s: %q does not match %s", name, values[0], schema.Pattern)
		}
		if len(schema.Enum) > 0 && !slices.Contains(schema.Enum, values[0]) {
			r.t.Errorf("header %s: %q is not one of %q", name, values[0], schema.Enum)
		}
	}
}

func documentedPath(d *document, path string) string {
	if _, ok := d.Paths[path]; ok {
		return path
	}
	parts := strings.Split(path, "/")
	for template := range d.Paths {
		want := strings.Split(template, "/")
		fits := len(want) == len(parts) || template == keyPrefix+"{key}" && len(parts) > len(want)
		for i := 0; fits && i < len(want); i++ {
			fits = want[i] == parts[i] || strings.HasPrefix(want[i], "{")
		}
		if fits {
			return template
		}
	}
	return path
}

// validateLines holds the lines of an NDJSON response to the contract as if they
// had come as JSON; the last line of a stream that is not finished stands apart.
func (r *rig) validateLines(req *http.Request, resp *http.Response, body []byte) {
	r.t.Helper()
	r.validateHeaders(req, resp)
	if req.Method == http.MethodHead {
		return
	}
	all := lines(string(body))
	text := `{"results":[` + strings.Join(all, ",") + `]}`
	if req.URL.Path == "/v1/kv" {
		var items []string
		for i, line := range all {
			switch {
			case strings.HasPrefix(line, `{"common_prefix`):
			case strings.Contains(line, `"next":"`) && !strings.HasPrefix(line, `{"key`):
				if i != len(all)-1 {
					r.t.Errorf("a line with next is not the last: %s", line)
				}
			default:
				items = append(items, line)
			}
		}
		text = `{"items":[` + strings.Join(items, ",") + `],"common_prefixes":[]}`
	}
	as := *resp
	as.Header = resp.Header.Clone()
	as.Header.Set("Content-Type", "application/json")
	as.Body = io.NopCloser(strings.NewReader(text))
	if ok, errs := contract().ValidateHttpResponse(req, &as); !ok {
		r.t.Errorf("the lines break the contract: %v", errs[0])
	}
}
