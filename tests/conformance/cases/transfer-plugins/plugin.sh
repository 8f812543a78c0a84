#!/bin/sh
if [ "$1" = -classad ]; then
    echo 'PluginVersion = "0.1"'
    echo 'PluginType = "FileTransfer"'
    echo 'SupportedMethods = "case"'
    echo 'MultipleFileSupport = true'
    exit 0
fi
while [ $# -gt 0 ]; do
    case $1 in
    -infile) asked=$2 ;;
    -outfile) told=$2 ;;
    esac
    shift
done
file=$(sed -n 's/.*LocalFileName = "\([^"]*\)".*/\1/p' "$asked")
echo fetched >"$file"
echo '[ TransferSuccess = true; TransferUrl = "case://host/data"; TransferFileName = "data"; TransferProtocol = "case"; TransferType = "download" ]' >"$told"
