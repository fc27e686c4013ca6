package filestore_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows"

	"github.com/tokentripper/tokentripper/tokensource"
)

func TestASaveIsTriedUntilItsContextEndsWhileAProgramHasTheFileOpen(t *testing.T) {
	dir := newDir(t)
	put(t, dir, "one")
	file, err := os.Open(find(t, dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = open(dir).Update(ctx, key, func(_ []byte, save func([]byte) error) error { return save([]byte("two")) })
	if err == nil || ctx.Err() == nil || errors.Is(err, tokensource.ErrLocked) {
		t.Errorf("got error %v, the context's: %v; want the error of the file when the context has ended", err, ctx.Err())
	}
	want(t, dir, "one")
	file.Close()
	put(t, dir, "two")
	want(t, dir, "two")
	if got := files(t, dir); len(got) != 4 {
		t.Errorf("got files %v; want nothing left behind", got)
	}
}

func TestADirectoryIsMadeForItsUserAndTheSystemAlone(t *testing.T) {
	dir := newDir(t)
	put(t, dir, "one")
	d, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		t.Fatal(err)
	}
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		t.Fatal(err)
	}
	list := d.String()
	for ace := range strings.SplitSeq(list, "(") {
		_, who, ok := strings.Cut(strings.TrimSuffix(ace, ")"), ";;;")
		if ok && who != "SY" && who != "BA" && who != user.User.Sid.String() {
			t.Errorf("got access for %s in %s; want the user, SYSTEM and Administrators alone", who, list)
		}
	}
	if !strings.Contains(list, "(A;") {
		t.Errorf("got the access list %q; want one that lets the user in", list)
	}
}
