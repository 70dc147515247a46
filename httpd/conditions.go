package httpd

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// tagsMax bounds the entity tags of one condition.
const tagsMax = 64

// noVersion is a version that no key has: a tag list in which nothing can match
// still has to reach the shard, which answers with the current version.
const noVersion = math.MaxUint64

// tagList is an If-Match or If-None-Match header (RFC 9110 §13.1): a star, or
// the versions among its tags. Tags that are no versions of ours match nothing.
type tagList struct {
	given    bool
	any      bool
	versions []uint64
}

// parseTags reads a header's lines as one list. Weak tags count only if weak is
// set: If-Match compares strongly, If-None-Match weakly.
func parseTags(name string, lines []string, weak bool) (tagList, error) {
	if len(lines) == 0 {
		return tagList{}, nil
	}
	list := tagList{given: true}
	bad := func() (tagList, error) {
		return tagList{}, invalid(name + `: want * or a list of quoted tags like "12"`)
	}
	text := strings.Trim(strings.Join(lines, ","), " \t")
	if text == "*" {
		list.any = true
		return list, nil
	}
	tags := 0
	for {
		text = strings.TrimLeft(text, " \t,")
		if text == "" {
			break
		}
		rest, isWeak := strings.CutPrefix(text, "W/")
		if !strings.HasPrefix(rest, `"`) {
			return bad()
		}
		end := strings.IndexByte(rest[1:], '"')
		if end < 0 {
			return bad()
		}
		tag := rest[1 : 1+end]
		text = strings.TrimLeft(rest[end+2:], " \t")
		if text != "" && text[0] != ',' {
			return bad()
		}
		if tags++; tags > tagsMax {
			return tagList{}, invalid(name + ": at most " + strconv.Itoa(tagsMax) + " tags")
		}
		if v, err := kv.ParseVersion(tag); err == nil && (weak || !isWeak) {
			list.versions = append(list.versions, uint64(v))
		}
	}
	if tags == 0 {
		return bad()
	}
	return list, nil
}

// has tells whether a version is in the list.
func (l *tagList) has(v kv.Version) bool { return l.any || slices.Contains(l.versions, uint64(v)) }

// conditions are the preconditions of one request.
type conditions struct{ match, noneMatch tagList }

// conditions reads the preconditions that apply to entity tags. Those on dates
// are ignored as RFC 9110 tells servers without modification dates to.
func (x *exchange) conditions() (conditions, error) {
	var c conditions
	im, inm := x.r.Header["If-Match"], x.r.Header["If-None-Match"]
	if im == nil && inm == nil {
		return c, nil
	}
	var err error
	if c.match, err = parseTags("If-Match", im, false); err != nil {
		return c, err
	}
	c.noneMatch, err = parseTags("If-None-Match", inm, true)
	return c, err
}

// guards appends the conditions of a write to key (invariant 6).
func (c *conditions) guards(dst []*kvpb.Guard, key []byte) []*kvpb.Guard {
	if c.match.given {
		g := &kvpb.Guard{Key: key, Kind: kvpb.GuardKind_GUARD_EXISTS}
		if !c.match.any {
			g.Kind, g.Versions = kvpb.GuardKind_GUARD_VERSION_EQ, c.match.versions
			if len(g.Versions) == 0 {
				g.Versions = []uint64{noVersion}
			}
		}
		dst = append(dst, g)
	}
	if c.noneMatch.given {
		g := &kvpb.Guard{Key: key, Kind: kvpb.GuardKind_GUARD_ABSENT}
		if !c.noneMatch.any {
			g.Kind, g.Versions = kvpb.GuardKind_GUARD_VERSION_NE, c.noneMatch.versions
			if len(g.Versions) == 0 {
				return dst // none of nothing: always true
			}
		}
		dst = append(dst, g)
	}
	return dst
}
