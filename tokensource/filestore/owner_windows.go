package filestore

import (
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/windows"
)

// mkdir makes a directory that only the user, SYSTEM and the Administrators group can
// open. Files in it inherit this.
func mkdir(path string) error {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return err
	}
	list, err := windows.SecurityDescriptorFromString("D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;" + user.User.Sid.String() + ")")
	if err != nil {
		return err
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	attributes := &windows.SecurityAttributes{Length: uint32(unsafe.Sizeof(windows.SecurityAttributes{})), SecurityDescriptor: list}
	if err := windows.CreateDirectory(name, attributes); err != nil {
		return &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// shared refuses nothing, because modes mean nothing on Windows.
func shared(string, fs.FileInfo) error { return nil }

// foreign refuses a file or directory of another user, who may change it at any time.
func foreign(path string, info fs.FileInfo) error {
	owner, err := ownerOf(path, !info.IsDir() && !info.Mode().IsRegular())
	if err != nil {
		return wrap(&os.PathError{Op: "owner", Path: path, Err: err})
	}
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return wrap(err)
	}
	if owner.IsWellKnown(windows.WinLocalSystemSid) || owner.IsWellKnown(windows.WinBuiltinAdministratorsSid) || owner.Equals(user.User.Sid) {
		return nil
	}
	return fmt.Errorf("filestore: %s belongs to %v, not to SYSTEM, Administrators or %v", path, owner, user.User.Sid)
}

// ownerOf returns the owner of a file or directory, or of a link itself.
func ownerOf(path string, link bool) (*windows.SID, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	flags := uint32(windows.FILE_FLAG_BACKUP_SEMANTICS)
	if link {
		flags |= windows.FILE_FLAG_OPEN_REPARSE_POINT
	}
	const share = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	file, err := windows.CreateFile(name, windows.READ_CONTROL, share, nil, windows.OPEN_EXISTING, flags, 0)
	if err != nil {
		return nil, err
	}
	defer windows.CloseHandle(file)
	d, err := windows.GetSecurityInfo(file, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return nil, err
	}
	owner, _, err := d.Owner()
	return owner, err
}
