package client

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/quorate-db/quorate/httpd"
	"github.com/quorate-db/quorate/internal/bench/memdata"
	"github.com/quorate-db/quorate/kv"
)

// TestTokens makes, uses and revokes tokens over both transports.
func TestTokens(t *testing.T) {
	for _, lean := range []bool{false, true} {
		t.Run(fmt.Sprintf("lean=%t", lean), func(t *testing.T) {
			tokens, root := memdata.NewTokens()
			cluster := &memdata.Cluster{}
			s := httptest.NewServer(httpd.New(httpd.Options{Data: memdata.New(testNode, 7), Cluster: cluster, Health: cluster,
				Access: tokens, Tokens: tokens, Self: testNode, Now: func() time.Time { return time.UnixMilli(1_700_000_000_000) }}).Handler())
			t.Cleanup(s.Close)
			as := func(token string) *Client {
				c, err := New(Config{Endpoints: []string{s.URL}, Lean: lean, Token: token})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			}
			admin, ctx := as(root), t.Context()
			made, err := admin.CreateToken(ctx, TokenOrder{Name: "app", TTL: Duration(time.Hour), Rate: 100, Grants: []Grant{
				{Role: kv.RoleWriter, Prefix: "app/"}, {Role: kv.RoleReader, Prefix: "app/\xff", Deny: true}}})
			if err != nil || made.Secret == "" || made.Grants[1].Prefix != "app/\xff" || !made.Grants[1].Deny || made.Expires.Sub(made.Created) != time.Hour {
				t.Fatalf("%+v, %v", made, err)
			}
			app := as(made.Secret)
			if _, err := app.Put(ctx, "app/k", []byte("v"), PutOptions{}); err != nil {
				t.Error(err)
			}
			var e *Error
			if _, err := app.Put(ctx, "other", nil, PutOptions{}); !IsDenied(err) || !errors.As(err, &e) || e.Code != kv.CodeForbidden || e.Outcome != kv.OutcomeNotApplied || e.Attempts != 1 {
				t.Errorf("%+v", err)
			}
			if own, err := app.OwnToken(ctx); err != nil || own.ID != made.ID || own.Secret != "" {
				t.Errorf("%+v, %v", own, err)
			}
			if all, err := admin.Tokens(ctx); err != nil || len(all) != 2 || !all[0].Root || all[1].Rate != 100 {
				t.Errorf("%+v, %v", all, err)
			}
			if gone, err := admin.RevokeToken(ctx, made.ID); err != nil || gone.Name != "app" {
				t.Errorf("%+v, %v", gone, err)
			}
			for _, c := range []*Client{app, as("")} {
				if _, err := c.Get(ctx, "app/k", ReadOptions{}); CodeOf(err) != kv.CodeUnauthenticated || !IsDenied(err) {
					t.Error(err)
				}
			}
		})
	}
}

// TestRouteIsGivenUpWhereItIsDenied: a token that may not look at the cluster is not
// refused four times a second.
func TestRouteIsGivenUpWhereItIsDenied(t *testing.T) {
	tokens, _ := memdata.NewTokens()
	cluster := &memdata.Cluster{}
	s := httptest.NewServer(httpd.New(httpd.Options{Data: memdata.New(testNode, 7), Cluster: cluster, Health: cluster, Access: tokens, Self: testNode}).Handler())
	t.Cleanup(s.Close)
	c, err := New(Config{Endpoints: []string{s.URL}, RouteToLeader: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	begun := func(now time.Time) time.Time {
		c.routes.refresh(now)
		waitFor(t, func() bool { c.routes.mu.Lock(); defer c.routes.mu.Unlock(); return !c.routes.running })
		c.routes.mu.Lock()
		defer c.routes.mu.Unlock()
		return c.routes.last
	}
	now := time.Now()
	if begun(now) != now || begun(now.Add(routesAgeMax-1)) != now || begun(now.Add(routesAgeMax)) == now {
		t.Error("asked too often, or never again")
	}
}
