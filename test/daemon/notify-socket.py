# Takes what sd_notify sends, as systemd does: prints one line of JSON a message.
import json
import os
import socket
import sys

path = sys.argv[1]
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
listener.bind('\0' + path[1:] if path.startswith('@') else path)
print(json.dumps({'listening': path}), flush=True)
# "deaf": the descriptors of BARRIER=1 stay open, so that the sender waits.
deaf = sys.argv[2:] == ['deaf']
held = []
while True:
    data, ancillary, _flags, _address = listener.recvmsg(65536, 4096)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            for at in range(0, len(content), 4):
                fd = int.from_bytes(content[at : at + 4], sys.byteorder)
                held.append(fd) if deaf else os.close(fd)
    message = data.decode()
    if message != 'BARRIER=1':
        print(json.dumps(dict(line.split('=', 1) for line in message.split('\n'))), flush=True)
