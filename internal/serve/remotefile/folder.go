package remotefile

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// MakeFolder makes a folder for copies, which only the user of this process can use, unless there is one. See [Trust].
func MakeFolder(name string) error {
	if err := os.MkdirAll(name, 0o700); err != nil {
		return err
	}
	return Trust(name)
}

// Trust refuses a folder that someone else may have made where everyone can make folders, such as /tmp.
func Trust(folder string) error {
	above, err := os.Stat(filepath.Dir(folder))
	if err != nil {
		return err
	}
	info, err := os.Lstat(folder) // a link could lead elsewhere later
	if err != nil {
		return err
	}
	if above.Mode()&fs.ModeSticky != 0 && (info.Mode().Perm()&0o022 != 0 || !isOwn(info)) {
		return fmt.Errorf("others can write into %s: name another folder", folder)
	}
	return nil
}

// Keep closes a temporary file and gives it a name in the same folder in one step, in place of what has that name.
func Keep(file *os.File, name string) error {
	err := file.Sync() // else a crash could leave a file without its content
	if err = cmp.Or(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), name); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer folder.Close()
	_ = folder.Sync() // not every system can; the old file would be good enough
	return nil
}
