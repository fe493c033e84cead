"""What people build by hand, as a competent user would; all answer the same requests from the same files.

GET  /similar/{item_id}?k=10[&filter=LOW-HIGH]   items like an item, of those with LOW <= draw < HIGH
GET  /recommend/{user_id}?k=10                   items for a user, without those seen
POST /query {"vector": [...], "k": 10}           items near a vector
"""
