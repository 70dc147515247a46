package arch

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The sizes that everything new keeps. What is larger is listed in ratchet.txt
// with the size it has; an entry there may only shrink and has to go when its
// place is within the limit.
const (
	fileLinesMax     = 500
	functionLinesMax = 70
	structFieldsMax  = 20
)

// measured is one thing with a size: "path" (a file), "path:func Name" or
// "path:struct Name".
type measured struct {
	name  string
	size  int
	limit int
}

func TestSizes(t *testing.T) {
	allowed := readRatchet(t)
	seen := map[string]bool{}
	for _, m := range measureTree(t, root(t)) {
		ratchet, listed := allowed[m.name]
		seen[m.name] = true
		switch {
		case m.size <= m.limit && listed:
			t.Errorf("%s is down to %d: take it out of ratchet.txt", m.name, m.size)
		case m.size <= m.limit:
		case !listed:
			t.Errorf("%s has %d lines or fields, the limit is %d", m.name, m.size, m.limit)
		case m.size > ratchet:
			t.Errorf("%s grew from %d to %d; over the limit of %d it may only shrink", m.name, ratchet, m.size, m.limit)
		}
	}
	for name := range allowed {
		if !seen[name] {
			t.Errorf("ratchet.txt lists %s, which does not exist", name)
		}
	}
}

func readRatchet(t *testing.T) map[string]int {
	t.Helper()
	f, err := os.Open("ratchet.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]int{}
	for s := bufio.NewScanner(f); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		size, name, ok := strings.Cut(line, " ")
		var n int
		if _, err := fmt.Sscanf(size, "%d", &n); err != nil || !ok {
			t.Fatalf("ratchet.txt: %q: want \"SIZE NAME\"", line)
		}
		out[name] = n
	}
	return out
}

func measureTree(t *testing.T, top string) []measured {
	t.Helper()
	var all []measured
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); path != top && (strings.HasPrefix(n, ".") || n == "testdata" || n == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go") {
			return nil
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found, err := measureFile(filepath.ToSlash(rel), src)
		all = append(all, found...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func measureFile(rel string, src []byte) ([]measured, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, rel, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	lines := func(n ast.Node) int { return fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1 }
	all := []measured{{rel, fset.File(file.FileStart).LineCount(), fileLinesMax}}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			all = append(all, measured{rel + ":func " + receiver(d) + d.Name.Name, lines(d), functionLinesMax})
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				ts, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				if st, ok := ts.Type.(*ast.StructType); ok {
					all = append(all, measured{rel + ":struct " + ts.Name.Name, st.Fields.NumFields(), structFieldsMax})
				}
			}
		}
	}
	return all, nil
}

// receiver gives "Type." for a method, "" for a function.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return ""
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if generic, ok := typ.(*ast.IndexExpr); ok {
		typ = generic.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name + "."
	}
	return "?."
}

func TestMeasureFileSeesWhatIsTooLarge(t *testing.T) {
	src := "package x\n\nfunc long() {\n" + strings.Repeat("\t_ = 1\n", functionLinesMax) + "}\n"
	got, err := measureFile("x.go", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	if m := got[1]; m.name != "x.go:func long" || m.size != functionLinesMax+2 || m.size <= m.limit {
		t.Fatalf("measured %+v", m)
	}
}
