#!/bin/sh
echo '# more' >>"$0"
echo done
