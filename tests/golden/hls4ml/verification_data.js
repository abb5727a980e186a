var verifJSON={"functions":[{"name":"net","data":["100","14,15,14","1,1,1"]}]};
